"""Composed execution: train a chain of linear layers as the one layer that it folds to.

In each step the kernels of a chain are multiplied to the compact kernel, at a cost independent of
batch and image size, and one layer runs with it. Function and gradients are those of the chain,
and the parameters are those of its layers. For small batches and images it is cheaper to run layer
by layer, so the decision is made for each chain at the actual size.

The importer lifts the graph as fold does, and replaces each chain by one call.
"""

from onnx_expand.train.composed.chain import Chain
from onnx_expand.train.composed.find import SeparateLayers
from onnx_expand.train.composed.module import (
    chains_of,
    composed,
    execution_of,
    plans_of,
    sharing_kernels,
    summary,
)

__all__ = [
    "Chain",
    "SeparateLayers",
    "chains_of",
    "composed",
    "execution_of",
    "plans_of",
    "sharing_kernels",
    "summary",
]
