"""That `check` tells what differs from what is equal, on pairs that make it hard."""

from __future__ import annotations

import pytest

import onnx_expand
from tests.support.pairs import Pair, different, equal

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("pair", different(), ids=lambda pair: pair.name)
def test_what_differs_is_found(pair: Pair) -> None:
    """A difference is a verdict, not an error, whatever inputs it takes to see it."""
    verdict = onnx_expand.check(pair.a, pair.b)
    assert not verdict
    assert verdict.differences


@pytest.mark.parametrize("pair", equal(), ids=lambda pair: pair.name)
def test_what_is_equal_is_neither_different_nor_refused(pair: Pair) -> None:
    """Rounding is forgiven, and inputs that the models take are found."""
    verdict = onnx_expand.check(pair.a, pair.b)
    assert verdict, verdict.differences
