"""Compose a chain of maps in the order that needs the fewest multiplications."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import UsageError

__all__ = ["compose_chain"]

_RUN = 32
_MANY, _SMALL = 8, 64  # at least that many matrices, of at most that size, are stacked


@np.errstate(all="ignore")  # values that are not finite are refused when they are written
def compose_chain(chain: Sequence[AffineConv], *, owned: bool = False) -> AffineConv:
    """Compose a chain, first map first, in the cheapest order.

    The matrix-chain problem is solved exactly for runs of up to 32 maps; longer chains are
    contracted run by run.

    Args:
        chain: At least one map.
        owned: Whether writeable weights of matrices may be modified in place. Code that keeps a
            map makes its arrays read-only.

    Raises:
        RefusedError: The chain is not one convolution.
        UsageError: The chain is empty.
    """
    if not chain:
        raise UsageError("a chain has at least one map")
    parts = list(chain)
    if len(parts) > 1 and all(map(_is_matrix, parts)):
        parts = _contract_squares(_without_scales(parts, owned))
    while len(parts) > 1:
        parts = [_contract_run(parts[i : i + _RUN]) for i in range(0, len(parts), _RUN)]
    return parts[0]


def _is_matrix(f: AffineConv) -> bool:
    return not f.rank and (f.group == 1 or f.geometry.is_per_channel)


def _without_scales(parts: Sequence[AffineConv], owned: bool) -> list[AffineConv]:
    """Merge the per-channel maps of a chain of matrices into their neighbours."""
    found: list[AffineConv] = []
    for f in parts:
        mixes = f.group == 1
        if found and not (mixes and found[-1].group == 1):
            last = found[-1]
            if owned and not mixes and last.group == 1 and last.weight.flags.writeable:
                # Scaling in place avoids a second copy of a large matrix.
                np.multiply(last.weight, f.weight, out=last.weight)
                bias = f.bias
                if last.bias is not None:
                    scaled = f.weight.reshape(-1) * last.bias
                    bias = scaled if bias is None else scaled + bias
                found[-1] = AffineConv(last.weight, bias)
            else:
                found[-1] = f @ last
        else:
            found.append(f)
    return found


def _contract_squares(parts: Sequence[AffineConv]) -> list[AffineConv]:
    """Contract the runs of small square matrices of equal size in batched products.

    Every order costs the same for such a run. A matrix and its bias form one matrix with one more
    row and column, so that all pairs of neighbours are multiplied in one batched product.
    """
    found: list[AffineConv] = []
    for _, run in itertools.groupby(parts, key=_square):
        maps = list(run)
        if len(maps) < _MANY or _square(maps[0]) is None:
            found += maps
            continue
        n = maps[0].geometry.in_channels
        stack = np.zeros((len(maps), n + 1, n + 1))
        stack[:, :n, :n] = [f.weight for f in maps]
        stack[:, :n, n] = [np.zeros(n) if f.bias is None else f.bias for f in maps]
        stack[:, n, n] = 1
        while len(stack) > 1:
            odd = stack[len(stack) & ~1 :]
            stack = np.concatenate([stack[1::2] @ stack[: len(stack) & ~1 : 2], odd])
        biased = any(f.bias is not None for f in maps)
        found.append(AffineConv(stack[0, :n, :n], stack[0, :n, n] if biased else None))
    return found


def _square(f: AffineConv) -> int | None:
    """Return the size of a square matrix if it is small enough to be stacked, else None."""
    n, m = f.weight.shape
    return n if n == m and f.group == 1 and n <= _SMALL else None


def _contract_run(run: Sequence[AffineConv]) -> AffineConv:
    """Contract a run in the cheapest order that is exact.

    Whether a border is exact depends on the order: a later map may crop the padding again.
    """
    geometry = {(i, i): f.geometry for i, f in enumerate(run)}
    cost = {(i, i): 0 for i in range(len(run))}
    split: dict[tuple[int, int], int] = {}
    for length in range(1, len(run)):
        for i in range(len(run) - length):
            j = i + length
            options = [
                (cost[i, k] + cost[k + 1, j] + _work(geometry[i, k], geometry[k + 1, j]), k)
                for k in range(i, j)
                if (i, k) in cost and (k + 1, j) in cost
            ]
            for total, k in sorted(options):
                product = geometry[i, k].then(geometry[k + 1, j])
                if isinstance(product, Geometry):
                    geometry[i, j], cost[i, j], split[i, j] = product, total, k
                    break

    def contract(i: int, j: int) -> AffineConv:
        # A run that composes in no order is contracted from the left, which raises its refusal.
        if i == j:
            return run[i]
        k = split.get((i, j), j - 1)
        return contract(i, k).then(contract(k + 1, j))

    return contract(0, len(run) - 1)


def _work(first: Geometry, second: Geometry) -> int:
    """Return the multiplications of composing two maps."""
    return math.prod(second.weight_shape) * (math.prod(first.weight_shape) // first.out_channels)
