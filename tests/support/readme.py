"""Run the blocks of the README as a new user would.

`python -m tests.support.readme`, in an empty folder.

Python blocks and blocks of `onnx-expand` commands run in order in one folder, except those that
create the environment or need downloaded data.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["blocks", "commands", "main"]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ELSEWHERE = ("cifar-10-python.tar.gz",)  # data sets that a user provides


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the language and text of each code block of a Markdown file."""
    for found in _FENCE.finditer(path.read_text(encoding="utf-8")):
        yield found[1], found[2]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the `onnx-expand` commands in a block that can run here, as words."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["onnx-expand"] and not any(name in words for name in _ELSEWHERE):
            yield words[1:]


def main() -> int:
    """Run all blocks; return 0 if all succeed."""
    readme = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        for language, text in blocks(readme):
            steps = [[sys.executable, "-m", "onnx_expand", *words] for words in commands(text)]
            if language == "python":
                steps = [[sys.executable, "-c", text]]
            for step in steps:
                print("$", shlex.join(step[2:]) if language != "python" else "python block")
                done = subprocess.run(step, cwd=folder)
                if done.returncode != 0:
                    print(f"exit code {done.returncode}", file=sys.stderr)
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
