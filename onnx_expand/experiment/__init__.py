"""A whole experiment: data, training, files, comparison, folding. It needs torch."""

from onnx_expand.experiment.compare import Comparison
from onnx_expand.experiment.report import Report
from onnx_expand.experiment.run import Experiment, Watcher

__all__ = ["Comparison", "Experiment", "Report", "Watcher"]
