"""Write the import graph and the list of modules into the documentation.

`python -m tests.support.architecture docs/architecture.md`

The file contains a Mermaid diagram between two marks: a box for each part of the package, and an
arrow from a part to each that it imports, unless a longer path implies it. Between two further
marks it lists all modules with the first sentences of their docstrings.
"""

from __future__ import annotations

import ast
import itertools
import sys
from pathlib import Path

import grimp

__all__ = ["modules", "picture", "updated"]

ROOT = Path(__file__).parents[2]
FIRST, LAST = "<!-- imports: made by tests/support/architecture.py -->", "<!-- end of imports -->"
LISTED = "<!-- modules: made by tests/support/architecture.py -->", "<!-- end of modules -->"


def picture() -> str:
    """Return the imports of the package as a Mermaid flowchart."""
    graph = grimp.build_graph("onnx_expand", include_external_packages=False)
    parts = sorted(
        part.removeprefix("onnx_expand.") for part in graph.find_children("onnx_expand")
    )
    needed: dict[str, set[str]] = {part: set() for part in parts}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            a, b = _part(module), _part(imported)
            if a and b and a != b:
                needed[a].add(b)
    lines = ["flowchart TD"]
    lines += [f"  {part}[{part}]" for part in parts if part != "__main__"]
    lines += [
        f"  {a} --> {b}" for a in parts if a != "__main__" for b in sorted(_direct(a, needed))
    ]
    return "\n".join(lines)


def _part(module: str) -> str:
    return module.removeprefix("onnx_expand").removeprefix(".").partition(".")[0]


def _direct(part: str, needed: dict[str, set[str]]) -> set[str]:
    """Return the imports of a part that no other import implies."""
    behind: set[str] = set()
    pending = [far for near in needed[part] for far in needed[near]]
    while pending:
        current = pending.pop()
        if current not in behind:
            behind.add(current)
            pending += needed[current]
    return needed[part] - behind


def modules() -> str:
    """Return all modules by folder, with the first sentences of their docstrings."""
    package = ROOT / "onnx_expand"
    files = sorted((p.parent.relative_to(package), p) for p in package.rglob("*.py"))
    lines: list[str] = []
    for folder, group in itertools.groupby(files, key=lambda pair: pair[0]):
        lines += [f"### `{folder}/`" if folder.parts else "### The package", ""]
        for _, path in group:
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            summary = " ".join(text.partition("\n\n")[0].split())
            lines.append(f"- `{path.relative_to(package).as_posix()}`: {summary}")
        lines.append("")
    return "\n".join(lines)


def updated(text: str) -> str:
    """Return a document with the current diagram and list of modules between their marks."""
    text = _between(text, (FIRST, LAST), f"```mermaid\n{picture()}\n```")
    return _between(text, LISTED, modules())


def _between(text: str, marks: tuple[str, str], content: str) -> str:
    before, first, rest = text.partition(marks[0])
    return f"{before}{first}\n{content}\n{marks[1]}{rest.partition(marks[1])[2]}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
