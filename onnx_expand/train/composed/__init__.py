"""Composed execution: chains of linear layers train as the one layer that they are.

The kernels of a chain are composed in each step and one convolution is run: the same function and
the same gradients, at the cost of the compact layer. What composing costs depends on the weights
alone, what it saves grows with batch and image, so that each chain is decided for itself.
"""

from onnx_expand.train.composed.module import Composed, composed, execution_of, once_per_step

__all__ = ["Composed", "composed", "execution_of", "once_per_step"]
