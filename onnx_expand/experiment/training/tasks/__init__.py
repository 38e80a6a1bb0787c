"""Learning tasks: the loss of a step, and the score of the test data."""

from onnx_expand.experiment.training.tasks.base import Meter, Task, first_output
from onnx_expand.experiment.training.tasks.choose import choose

__all__ = ["Meter", "Task", "choose", "first_output"]
