"""Carrying: a factor moves through what it commutes with, to a map that takes it in.

A diagonal map (`s x`, or `s x + t`, for each channel) behind an op may stand before it, and the
other way round, where the op is homogeneous, or moves numbers only. So the scale of an attention
goes into the weight of the query, and a normalization before an average into the classifier.
Nothing is rewritten on the way: what lies between computes scaled numbers, under new names, and
nothing else reads them.
"""

from __future__ import annotations

from onnx_expand.errors import RefusedError
from onnx_expand.linear.diagonal import Diagonal
from onnx_expand.linear.downstream import Downstream
from onnx_expand.linear.driver import Swap, Terms
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.terms import Map, Term
from onnx_expand.linear.upstream import Upstream

__all__ = ["carry"]


def carry(terms: Terms, term: Term) -> Swap | None:
    """A diagonal map goes to where it costs least: f(s x) = s^k f(x).

    Taken where the map goes into another one, or comes to stand where there are fewer numbers.
    """
    if terms.policy is Policy.MARKED or not isinstance(term, Map) or term.unit:
        return None
    diagonal = Diagonal.of(term)
    if diagonal is None or diagonal.does_nothing:
        return None
    searches = Upstream(terms, term), Downstream(terms, term)
    ways = [(s, way) for s in searches if (way := s.way(diagonal)) is not None]
    for search, way in sorted(ways, key=lambda pair: pair[0].gain(pair[1])):
        if not search.is_worth(way):
            continue
        try:
            swap = way.taken()
        except RefusedError as error:
            search.refusals.insert(0, error.refusal)
            continue
        terms.scaled.update(way.scaled)
        return swap
    refusals = [refusal for search in searches for refusal in search.refusals]
    if refusals:
        terms.stuck[term] = refusals[0]
    return None
