"""Reports as one self-contained HTML file: what was done, to which nodes, and how it was proven.

A page holds its data, its style and its script, and asks the network for nothing. Graphs are laid
out in the browser by dagre (MIT), which is packed beside it; large ones are drawn by scope.
"""

from onnx_expand.pages.graphs import Drawing, draw
from onnx_expand.pages.page import render_page
from onnx_expand.pages.reports import bench_page, check_page, expand_page, fold_page
from onnx_expand.pages.training import training_page

__all__ = [
    "Drawing",
    "bench_page",
    "check_page",
    "draw",
    "expand_page",
    "fold_page",
    "render_page",
    "training_page",
]
