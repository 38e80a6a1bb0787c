"""The machine model by which fold ranks alternatives: one core of a server processor.

`python -m benchmarks.machine` measures these figures in onnxruntime. They were measured on a core
with AVX-512 in float32. Only their ratios matter, which vary less between machines than the
figures themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MACHINE", "Machine"]


@dataclass(frozen=True)
class Machine:
    """The time of basic operations, in picoseconds.

    Attributes:
        product: A multiply-accumulate of a large matrix product or convolution.
        elementwise: An element that a scale, a shift or a sum reads and writes.
        copied: An element that a Concat or Split copies, or that a product reads.
        transposed: An element that a Transpose moves.
        stored: An element of a weight that is read from memory.
        launch: The overhead of any node.
        start: The additional overhead of a convolution or matrix product of any size.
    """

    product: int
    elementwise: int
    copied: int
    transposed: int
    stored: int
    launch: int
    start: int


MACHINE = Machine(
    product=8,
    elementwise=130,
    copied=90,
    transposed=340,
    stored=80,
    launch=300_000,
    start=500_000,
)
