"""The guides: every block of every page runs, from the first to the last."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from onnx_expand.factorize import base
from tests.support.borders import difference, picture
from tests.support.guides import run_page

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / "index.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end as the page says, and what it asserts is so."""
    if "torch" in page.read_text(encoding="utf-8") or "onnx-expand train" in page.read_text():
        pytest.importorskip("torch")
        pytest.importorskip("onnxscript")
        pytest.importorskip("sklearn")
    # What a page registers goes with it.
    monkeypatch.setattr(base, "STRATEGIES", dict(base.STRATEGIES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter has many
        run_page(page)


def test_the_picture_of_the_border_is_what_is_computed() -> None:
    """Nothing inside, and the taps that meet padding at the edge: 3 of 9, 5 in the corners."""
    assert (ROOT / "docs" / "guide" / "border.svg").read_text(encoding="utf-8") == picture()
    assert abs(difference()[0, 0] - 5 / 9) < 1e-12
    assert abs(difference()[0, 4] - 3 / 9) < 1e-12
    assert abs(difference()[4, 4]) < 1e-12
