"""The tables of the ExpandNets paper, each a declared study of independent runs."""

from onnx_expand.experiment.paper.catalogue import CIFAR, EMBEDDED, STUDIES, study_of
from onnx_expand.experiment.paper.executors import Executor, in_pool, in_process
from onnx_expand.experiment.paper.job import Job
from onnx_expand.experiment.paper.runner import perform
from onnx_expand.experiment.paper.study import Arm, Findings, Row, Setting, Study, run_study
from onnx_expand.experiment.paper.tables import markdown, write

__all__ = [
    "CIFAR",
    "EMBEDDED",
    "STUDIES",
    "Arm",
    "Executor",
    "Findings",
    "Job",
    "Row",
    "Setting",
    "Study",
    "in_pool",
    "in_process",
    "markdown",
    "perform",
    "run_study",
    "study_of",
    "write",
]
