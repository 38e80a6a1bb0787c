"""The tables of the ExpandNets paper, each declared as a study of independent runs."""

from onnx_expand.experiment.paper.catalogue import STUDIES, study_of
from onnx_expand.experiment.paper.executors import Executor, by_slurm, in_pool, in_process, in_ray
from onnx_expand.experiment.paper.job import Job
from onnx_expand.experiment.paper.runner import perform
from onnx_expand.experiment.paper.settings import EMBEDDED, published
from onnx_expand.experiment.paper.study import (
    Arm,
    Findings,
    Row,
    Setting,
    Study,
    Teacher,
    run_study,
)
from onnx_expand.experiment.paper.tables import markdown, write

__all__ = [
    "EMBEDDED",
    "STUDIES",
    "Arm",
    "Executor",
    "Findings",
    "Job",
    "Row",
    "Setting",
    "Study",
    "Teacher",
    "by_slurm",
    "in_pool",
    "in_process",
    "in_ray",
    "markdown",
    "perform",
    "published",
    "run_study",
    "study_of",
    "write",
]
