"""Run all blocks of a documentation page in order, as a reader would.

`python -m tests.support.guides docs/index.md docs/guide/*.md`, or the tests, one page each.

Python blocks share their names; blocks without a language contain commands; a block whose first
line is a comment with a file name defines that file. Text blocks are not run.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from onnx_expand.cli import main as run_command
from tests.support.readme import blocks, commands

__all__ = ["run_page"]

_FILE = re.compile(r"# ([\w-]+\.\w+)\n")
_EXIT = re.compile(r"# exit code (\d)")


def run_page(page: Path) -> None:
    """Run all blocks of a page in an empty folder.

    Raises:
        AssertionError: An assertion of a block fails, or a command has an unexpected exit code.
    """
    names: dict[str, Any] = {"__name__": "guide"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number, (language, text) in enumerate(blocks(page), 1):
            if language == "python":
                exec(compile(text, f"{page.name}, block {number}", "exec"), names)
            elif not language:
                expected = _EXIT.search(text)
                for words in commands(text):
                    code = run_command(words)
                    assert code == int(expected[1] if expected else 0), (page.name, words, code)
            elif named := _FILE.match(text):
                Path(named[1]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("ORT_LOGGING_LEVEL", "3")
    for given in sys.argv[1:]:
        print(given, flush=True)
        run_page(Path(given).resolve())
