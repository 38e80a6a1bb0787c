"""The demo on real data: expand a compact network, train both, fold, and check equality."""

from onnx_expand.experiment.demo.figures import sentences, table
from onnx_expand.experiment.demo.run import Demo, DemoResult

__all__ = ["Demo", "DemoResult", "sentences", "table"]
