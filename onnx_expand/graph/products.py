"""Extents that are products: twice a batch is known to be that, whatever the batch is."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from onnx_expand.graph.claims import MADE_UP

__all__ = [
    "Names",
    "Product",
    "are_zero_together",
    "combined",
    "differ",
    "expanded",
    "product",
    "quotient",
    "reshaped",
    "spelled",
]

_COMMUTATIVE = frozenset({"Add", "Max", "Min", "Mul"})
_LARGE = 1 << 62
_INTEGERS: dict[str, Callable[..., int]] = {
    "Add": operator.add,
    "Div": operator.floordiv,
    "Max": lambda *n: max(n),
    "Min": lambda *n: min(n),
    "Mod": operator.mod,
    "Mul": operator.mul,
    "Neg": operator.neg,
    "Sub": operator.sub,
}


@dataclass(frozen=True)
class Product:
    """A positive integer times extents that are not static, each with its power."""

    coefficient: int
    powers: frozenset[tuple[Hashable, int]]


class Names:
    """Names of extents, products among them.

    Args:
        given: The names of the extents of inputs.
        spelled: The model's names of those that inference renamed.
    """

    def __init__(self, given: Set[str], spelled: Mapping[str, str]) -> None:
        self._given, self._spelled = given, spelled
        self._products: dict[Hashable, Product] = {}

    def of(self, extent: Hashable) -> int | str | None:
        """Return a number, or the name of an extent; None if it has none."""
        if not isinstance(extent, Product):
            return extent if isinstance(extent, int | str) else None
        factors: list[str] = []
        for factor, power in extent.powers:
            if not isinstance(factor, str) or factor.startswith(MADE_UP):
                return None
            factors += [factor] * power
        own = [str(extent.coefficient)] if extent.coefficient > 1 else []
        name = "*".join([*own, *sorted(factors)])
        if name in self._given:
            return None  # an exporter may have meant that, but it need not be so
        self._products[name] = extent
        return name

    def meant(self, dim: Hashable) -> Hashable:
        """Return the product that a name stands for; anything else as it is."""
        return self._products.get(dim, dim)

    def spell(self, dim: Hashable) -> str:
        """Return a name as the model spells it."""
        if dim not in self._products:
            return self._spelled.get(str(dim), str(dim))
        factors = str(dim).split("*")
        return "*".join(self._spelled.get(factor, factor) for factor in factors)


def product(extents: Iterable[Hashable]) -> Hashable:
    """Multiply extents; numbers, products and whatever stands for an extent."""
    coefficient, powers = 1, Counter[Hashable]()
    for extent in extents:
        own, others = _split(extent)
        coefficient *= own
        powers += others
    return _joined(coefficient, powers)


def quotient(dividend: Hashable, divisor: Hashable) -> Hashable | None:
    """Divide two products; None unless that is a product, too."""
    (coefficient, powers), (own, others) = _split(dividend), _split(divisor)
    if own < 1 or coefficient % own or others - powers:
        return None
    return _joined(coefficient // own, powers - others)


def are_zero_together(data: Sequence[Hashable], wanted: Sequence[Hashable]) -> bool:
    """Return whether extents that a Reshape asks for are zero only where those of its data are.

    A zero copies the extent at its position: in empty tensors -1 may then be another extent.
    """
    return all(
        isinstance(extent, int)
        or (i < len(data) and _split(extent)[1].keys() == _split(data[i])[1].keys())
        for i, extent in enumerate(wanted)
    )


def expanded(
    data: tuple[Hashable, ...] | None, wanted: tuple[Hashable, ...] | None
) -> tuple[Hashable, ...] | None:
    """Return the output extents of an Expand, None for those that depend on the numbers."""
    if data is None or wanted is None:
        return None
    rank = max(len(data), len(wanted))
    pairs = zip(
        (1,) * (rank - len(data)) + data, (1,) * (rank - len(wanted)) + wanted, strict=True
    )
    return tuple(_broadcast(*pair) for pair in pairs)


def _broadcast(a: Hashable, b: Hashable) -> Hashable:
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    return next((n for n in (a, b) if isinstance(n, int) and n > 1), None)


def differ(a: Hashable, b: Hashable) -> bool:
    """Return whether two numbers differ for certain: no extent is negative."""
    if isinstance(a, int) and isinstance(b, int):
        return a != b
    number, other = (a, b) if isinstance(a, int) else (b, a)
    return isinstance(number, int) and number < 0 and not isinstance(other, Result)


@dataclass(frozen=True)
class Result:
    """The result of integer arithmetic that is no product; it may be negative."""

    op_type: str
    operands: Hashable


def combined(op_type: str, operands: tuple[Hashable, ...]) -> Hashable:
    """Return what is or stands for the result of integer arithmetic on extents and numbers.

    Equal results may have different stand-ins, but different ones never have the same.
    """
    numbers = tuple(n for n in operands if isinstance(n, int))
    computed = _computed(op_type, numbers) if len(numbers) == len(operands) else None
    if computed is not None:
        return computed
    positive = all(not isinstance(n, int) or n > 0 for n in operands)
    if op_type == "Mul" and positive:
        return product(operands)
    if op_type == "Div" and positive and len(operands) == 2 and isinstance(operands[1], int):
        exact = quotient(*operands)
        if exact is not None:
            return exact
    same = frozenset(Counter(operands).items()) if op_type in _COMMUTATIVE else operands
    return Result(op_type, same)


def _computed(op_type: str, numbers: tuple[int, ...]) -> int | None:
    """Compute with numbers; None where that depends on more than they say."""
    if op_type in {"Div", "Mod"} and not numbers[0] >= 0 < numbers[1]:
        return None
    result = _INTEGERS[op_type](*numbers)
    return result if abs(result) < _LARGE else None


def reshaped(
    data: tuple[Hashable, ...] | None, wanted: tuple[Hashable, ...] | None
) -> tuple[Hashable, ...] | None:
    """Return the output extents of a Reshape; None for its -1 unless dynamic extents cancel."""
    if wanted is None or 0 in wanted or wanted.count(-1) > 1:
        return None
    inferred = None
    if data is not None and 0 not in data and are_zero_together(data, wanted):
        rest = product(extent for extent in wanted if extent != -1)
        inferred = quotient(product(data), rest)
    return tuple(inferred if extent == -1 else extent for extent in wanted)


def spelled(
    extents: Sequence[Hashable], data: Sequence[Hashable], wanted: Sequence[Hashable] | None
) -> tuple[int, ...] | None:
    """Return extents as the constant target of a Reshape; None if there is none.

    One extent may be -1 (inferred from the others). Those that the data have at the same position
    may be 0 (copied). Beside a copied extent, which may be zero, runtimes infer nothing: both may
    stand together only where the target had that -1 before.

    Args:
        extents: The extents of the output.
        data: The extents of the input that may be copied; empty under `allowzero`.
        wanted: The target before, if known.
    """
    if any(isinstance(extent, int) and (extent == 0 or extent < -1) for extent in extents):
        return None
    found = [extent if isinstance(extent, int) else -1 for extent in extents]
    copies = found.count(-1) > 1
    for i, extent in enumerate(extents):
        asked = copies or (wanted is not None and wanted[i] == 0)
        if found[i] == -1 and asked and i < len(data) and data[i] == extent:
            found[i] = 0
    if found.count(-1) > 1:
        return None
    infers = -1 in found and (wanted is None or wanted[found.index(-1)] != -1)
    return None if infers and 0 in found else tuple(found)


def _split(extent: Hashable) -> tuple[int, Counter[Hashable]]:
    if isinstance(extent, int):
        return extent, Counter()
    if isinstance(extent, Product):
        return extent.coefficient, Counter(dict(extent.powers))
    return 1, Counter([extent])


def _joined(coefficient: int, powers: Counter[Hashable]) -> Hashable:
    if not powers or not coefficient:
        return coefficient
    (name, power), *others = powers.items()
    if coefficient == 1 and power == 1 and not others:
        return name
    return Product(coefficient, frozenset(powers.items()))
