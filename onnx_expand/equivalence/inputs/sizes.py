"""Choose extents for the symbolic dimensions of a model's inputs."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from onnx_expand.equivalence.inputs.signature import Signature

__all__ = ["PLANNED", "Sizes", "extents_at", "plan_sizes", "symbols_of"]

Sizes: TypeAlias = Mapping[str, int]

# A batch, then two extents that the other symbols take in turn. Odd and different ones come first,
# which reveals extents that are hard-coded in a graph. Batches of one hide broadcasting errors,
# but some models accept no others.
_MAIN = ((1, 33, 40), (3, 40, 33), (2, 64, 64), (1, 224, 224), (1, 96, 128), (2, 256, 192))
# Where borders overlap, and padding or cropping must still be possible.
_SMALL = ((1, 16, 16), (2, 8, 8), (1, 5, 7), (3, 3, 3), (1, 2, 2), (1, 1, 1))
# For models that run at none of these sizes.
_OTHERS = (
    *((1, 32, 32), (1, 28, 28), (1, 48, 48), (1, 256, 256), (1, 299, 299), (1, 320, 320)),
    *((1, 384, 384), (1, 416, 416), (1, 512, 512), (1, 640, 640)),
)
PLANNED = len(_MAIN) + len(_SMALL)
"""The number of sizes tried for any model; more only if it runs at none of these."""
_OPERATORS = {
    ast.Add: int.__add__,
    ast.Sub: int.__sub__,
    ast.Mult: int.__mul__,
    ast.FloorDiv: int.__floordiv__,
    ast.Div: int.__floordiv__,
}
_LONGEST = 200  # characters of an expression; longer ones are treated as plain names


def symbols_of(signature: Signature) -> tuple[list[str], list[str]]:
    """Return the symbols on first axes (batches) and the other symbols, each once and in order."""
    first: dict[str, None] = {}
    others: dict[str, None] = {}
    for port in signature.inputs.values():
        for axis, symbol in enumerate(port.symbols()):
            if isinstance(symbol, str):
                (others if axis else first)[symbol] = None
    known = {**first, **others}
    for group in (first, others):
        for symbol in [s for s in group if _names(s) - {s} and _names(s) <= known.keys()]:
            del group[symbol]
    return list(first), [symbol for symbol in others if symbol not in first]


def plan_sizes(
    signature: Signature, compared: Sequence[int] = ()
) -> Iterator[list[dict[str, int]]]:
    """Yield sizes to try, best first: the extents of the symbolic dimensions by name.

    Each item also contains an alternative for models that do not run at the size: the same with a
    batch of one. An item is empty if it would repeat earlier sizes.

    Args:
        signature: The inputs.
        compared: Numbers with which the models may compare extents, each tried on all axes.
    """
    first, others = symbols_of(signature)
    seen = set()
    own = [(number,) * 3 for number in compared]
    for batch, *extents in (*_MAIN, *own, *_SMALL, *_OTHERS):
        choices = []
        for count in dict.fromkeys((batch, 1)):
            size = dict.fromkeys(first, count)
            for place, symbol in enumerate(others):
                size[symbol] = extents[place % 2]
            if (key := tuple(size.items())) not in seen:
                seen.add(key)
                choices.append(size)
        yield choices


def extents_at(shape: Sequence[int | str], sizes: Sizes) -> tuple[int, ...]:
    """Substitute extents for the symbols of a shape.

    Raises:
        KeyError: A symbol has no extent and is not an expression of symbols that have one.
    """
    return tuple(dim if isinstance(dim, int) else _value(dim, sizes) for dim in shape)


def _value(symbol: str, sizes: Sizes) -> int:
    if symbol in sizes:
        return sizes[symbol]
    tree = _parsed(symbol)
    if tree is None:
        raise KeyError(symbol)
    return max(0, _computed(tree, sizes))


def _computed(tree: ast.expr, sizes: Sizes) -> int:
    if isinstance(tree, ast.Name):
        return sizes[tree.id]
    if isinstance(tree, ast.Constant):
        return int(tree.value)  # type: ignore[arg-type]
    assert isinstance(tree, ast.BinOp)
    operation = _OPERATORS[type(tree.op)]
    return operation(_computed(tree.left, sizes), _computed(tree.right, sizes))


def _names(symbol: str) -> set[str]:
    """Return the names in a symbol that is an expression, such as `past + 1`."""
    tree = _parsed(symbol)
    if tree is None:
        return {symbol}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _parsed(symbol: str) -> ast.expr | None:
    """Parse an expression of names and whole numbers; None for anything else."""
    if len(symbol) > _LONGEST:
        return None
    try:
        tree = ast.parse(symbol.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if all(_is_plain(node) for node in ast.walk(tree)) else None


def _is_plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) is int and 0 <= node.value < 1 << 16
    if isinstance(node, ast.BinOp):
        divides = isinstance(node.op, ast.Div | ast.FloorDiv)
        return not divides or (isinstance(node.right, ast.Constant) and node.right.value != 0)
    return isinstance(node, ast.Name | ast.expr_context | ast.operator) and (
        not isinstance(node, ast.operator) or type(node) in _OPERATORS
    )
