"""Pairs of models that differ in ways that inputs can miss, and pairs that are equal."""

from tests.support.pairs.base import Pair
from tests.support.pairs.different import different
from tests.support.pairs.equal import equal

__all__ = ["Pair", "different", "equal"]
