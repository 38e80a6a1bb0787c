"""The collector runs rarely within a pass, and as before behind it."""

from __future__ import annotations

import gc

import pytest

from onnx_expand.model.collector import rare_collections


def test_it_runs_rarely_and_as_before_afterwards() -> None:
    """Nested uses and errors leave what was asked for."""
    given = gc.get_threshold()
    held: list[tuple[int, int, int]] = []

    def fails() -> None:
        with rare_collections(), rare_collections():
            held.append(gc.get_threshold())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert held[0][0] > given[0]
    assert gc.get_threshold() == given


def test_it_stays_off() -> None:
    """Who has turned it off by a threshold of 0 does not find it on."""
    given = gc.get_threshold()
    gc.set_threshold(0)
    try:
        with rare_collections():
            assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*given)
