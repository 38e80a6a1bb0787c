"""Pairs of models that differ in ways that inputs can miss, and pairs that are equal."""

from tests.pairs.base import Pair
from tests.pairs.different import different
from tests.pairs.equal import equal

__all__ = ["Pair", "different", "equal"]
