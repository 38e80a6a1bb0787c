"""Composed execution: a chain of linear layers is trained as the one layer that it folds to.

In each step the kernels of a chain are multiplied to the compact kernel, which takes the same for
any batch and image, and one layer is run with it. Function and gradients are those of the chain,
and the parameters stay those of its layers. Where batch and image are small it is cheaper to run
layer by layer, so that each chain is decided for itself, at the size at hand.

The importer lifts the graph as fold does, and makes one call of each chain.
"""

from onnx_expand.train.composed.chain import Chain
from onnx_expand.train.composed.find import Apart
from onnx_expand.train.composed.module import (
    chains_of,
    composed,
    execution_of,
    plans_of,
    sharing_kernels,
    summary,
)

__all__ = [
    "Apart",
    "Chain",
    "chains_of",
    "composed",
    "execution_of",
    "plans_of",
    "sharing_kernels",
    "summary",
]
