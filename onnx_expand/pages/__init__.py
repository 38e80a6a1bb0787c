"""Reports as self-contained HTML files: what was done, to which nodes, and how it was proven.

A page contains its data, styles and scripts, and makes no network requests. The browser lays out
graphs with the bundled dagre (MIT); large graphs are drawn by scope.
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
