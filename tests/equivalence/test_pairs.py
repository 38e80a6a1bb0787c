"""`check` tells different from equal models on difficult pairs."""

from __future__ import annotations

import pytest

import onnx_expand
from tests.support.pairs import Pair, different, equal

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("pair", different(), ids=lambda pair: pair.name)
def test_differences_are_found(pair: Pair) -> None:
    """A difference is a verdict, not an error, whatever inputs reveal it."""
    verdict = onnx_expand.check(pair.a, pair.b)
    assert not verdict
    assert verdict.differences


@pytest.mark.parametrize("pair", equal(), ids=lambda pair: pair.name)
def test_equal_models_are_neither_different_nor_refused(pair: Pair) -> None:
    """Rounding is accepted, and valid inputs are found."""
    verdict = onnx_expand.check(pair.a, pair.b)
    assert verdict, verdict.differences
