"""What a package index shows: no link leads to a file that is not there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("base", ["", "https://example.org/project/blob/main/"])
def test_links_of_the_package_page_are_absolute(base: str) -> None:
    """Links within the page stay, those to files are absolute or text; nothing else changes."""
    page = runpy.run_path(str(ROOT / "hatch_build.py"))["standing_alone"](README, base)
    assert any(not link.startswith("http") for link in LINK.findall(README))
    assert all(link.startswith(("http", "#")) for link in LINK.findall(page))
    assert page.count("```") == README.count("```")
    assert "ExpandNets" in page
    if base:
        assert f"]({base}docs/fold.md#where-factors-pass)" in page
    else:
        assert "(docs/fold.md)" in page
        assert "![" not in page
