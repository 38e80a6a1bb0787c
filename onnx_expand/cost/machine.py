"""The machine by which fold ranks what it may write: one core of a server's processor.

`python -m benchmarks.machine` measures these figures in onnxruntime. They were taken on a core
with AVX-512 at float32; what matters are their ratios, which differ less between machines than
the figures do.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MACHINE", "Machine"]


@dataclass(frozen=True)
class Machine:
    """What steps take, in picoseconds.

    Attributes:
        product: A multiply-accumulate of a large matrix product or convolution.
        step: A number that a scale, a shift or a sum reads and writes.
        copied: A number that a concatenation or a cut into parts copies, or a product reads.
        transposed: A number that goes to another place of its tensor.
        stored: A number of a weight that has to be read from memory.
        launch: A node, whatever it does.
        start: What a convolution or matrix product takes besides, however small it is.
    """

    product: int
    step: int
    copied: int
    transposed: int
    stored: int
    launch: int
    start: int


MACHINE = Machine(
    product=8, step=130, copied=90, transposed=340, stored=80, launch=300_000, start=500_000
)
