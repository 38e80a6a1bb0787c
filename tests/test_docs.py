"""The documentation: files that it names exist, code parses, and commands have these options."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from onnx_expand.cli.app import cli
from tests.support.readme import blocks, commands

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request: pytest.FixtureRequest) -> Path:
    """Each page in turn."""
    path: Path = request.param
    return path


def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link is a file of the project."""
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_files_in_the_architecture_exist() -> None:
    """Every file and folder that the page names is there, alone or in the package."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders: list[Path] = [ROOT, ROOT / "onnx_expand"]
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", text):
        # A file may be named within the folder that its sentence is about.
        inside = [*folders, ROOT / "onnx_expand" / "equivalence"]
        assert any((folder / name).exists() for folder in inside), name


def test_the_architecture_lists_every_module() -> None:
    """Every module is on the page; their descriptions may be those of an older version."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    _, _, listed = text.partition("## The modules")
    package = ROOT / "onnx_expand"
    there = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    named = set(re.findall(r"^- `([\w/]+\.py)`: .", listed, re.MULTILINE))
    assert named == there, "run python -m tests.support.architecture docs/architecture.md"


def test_the_picture_is_of_the_package() -> None:
    """The drawing of the imports has each part of the package."""
    pytest.importorskip("grimp", reason="import-linter is not installed")
    from tests.support.architecture import updated

    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn, today = (set(re.findall(r"^  (\w+)\[", t, re.MULTILINE)) for t in (text, updated(text)))
    assert drawn == today, "run python -m tests.support.architecture docs/architecture.md"


def test_python_parses(page: Path) -> None:
    """Every block of Python is Python."""
    for language, text in blocks(page):
        if language == "python":
            ast.parse(text)


def lines(page: Path) -> Iterator[list[str]]:
    """The commands of a page, in blocks and in running text."""
    for _, text in blocks(page):
        yield from commands(text)
    for text in re.findall(r"`(onnx-expand [^`]*)`", page.read_text(encoding="utf-8")):
        yield from commands(text)


def test_commands_have_these_options(page: Path) -> None:
    """Every command exists and knows the options that the page gives it."""
    for words in lines(page):
        if not words or words[0].startswith("-") or words[0].isupper():
            continue
        command = cli.commands.get(words[0])
        assert command is not None, words
        if command.name == "models":
            continue  # its words belong to the command of the networks
        context = click.Context(command, info_name=words[0])
        # In running text an option may stand without its value.
        with contextlib.suppress(click.BadOptionUsage):
            command.make_parser(context).parse_args([w for w in words[1:] if w != "..."])
