"""Pairs of models with differences that inputs can miss, and equal pairs."""

from tests.support.pairs.base import Pair
from tests.support.pairs.different import different
from tests.support.pairs.equal import equal

__all__ = ["Pair", "different", "equal"]
