"""Carry factors through ops that they commute with, to a map that absorbs them.

A diagonal map (`s x` or `s x + t` for each channel) after an op may be moved before it, and vice
versa, if the op is homogeneous or only moves elements. Thus the scale of an attention is merged
into the weight of the query, and a normalization before an average into the classifier. The nodes
between do not change; they compute scaled values under new names, which no other node reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx_expand.errors import Refusal, RefusedError
from onnx_expand.linear.driver import Swap, Terms
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.rules.diagonal import Diagonal
from onnx_expand.linear.rules.hoisting import Hoisting
from onnx_expand.linear.rules.sinking import Sinking
from onnx_expand.linear.terms.base import Map, Price, Term, View

__all__ = ["carry"]


def _gains_nothing(terms: Terms, term: Term, swap: Swap) -> bool:
    """Return whether a move gains nothing by the prices of the terms themselves.

    A scale and a shift are one map but are written as two nodes, as are a product and its bias,
    and more extents may be known on one side of a view. Without this comparison a later rewrite
    could undo the move. Only chains of terms with one argument are compared.
    """
    old = list(_chain(term))
    places = {t: i for i, t in enumerate(old)}
    new: list[Term] = []
    top = term
    while top in swap:
        top = swap[top]
    for current in _chain(top):
        if current in places:
            break
        new.append(current)
    else:
        return False
    gone = old[: places[current]]
    if not swap.keys() <= set(gone):
        return False
    keys = [
        terms.policy.key(sum((t.price() for t in chain), Price()).cost) for chain in (new, gone)
    ]
    return keys[0] >= keys[1]


def _chain(term: Term) -> Iterator[Term]:
    """Return a term, its argument, and so on, as long as there is one argument."""
    yield term
    while isinstance(term, Map | View):
        term = term.args[0]
        yield term


def carry(terms: Terms, term: Term) -> Swap | None:
    """Move a diagonal map to where it costs least: f(s x) = s^k f(x).

    Applied if another map absorbs it, or if the tensor there has fewer elements.
    """
    if terms.policy is Policy.MARKED or not isinstance(term, Map) or term.unit:
        return None
    diagonal = Diagonal.of(term)
    if diagonal is None or diagonal.does_nothing:
        return None
    searches = Hoisting(terms, term), Sinking(terms, term)
    moves = [(s, move) for s in searches if (move := s.move(diagonal)) is not None]
    for search, move in sorted(moves, key=lambda pair: pair[0].gain(pair[1])):
        if not search.is_worth(move):
            continue
        try:
            swap = move.replacements()
        except RefusedError as error:
            search.refusals.insert(0, error.refusal)
            continue
        if _gains_nothing(terms, term, swap):
            continue
        terms.scaled.update(move.scaled)
        return swap
    refusals = [refusal for search in searches for refusal in search.refusals]
    if refusals:
        terms.stuck[term] = _limit(searches, diagonal) or refusals[0]
    return None


def _limit(searches: Iterable[Hoisting | Sinking], diagonal: Diagonal) -> Refusal | None:
    """Return the refusal of values beyond their type, if that alone keeps a map in its place."""
    for search in searches:
        if search.limit is None:
            continue
        free = type(search)(search.terms, search.source, limited=False)
        move = free.move(diagonal)
        if move is not None and free.is_worth(move):
            return search.limit
    return None
