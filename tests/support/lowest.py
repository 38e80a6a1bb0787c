"""The lowest supported version of each dependency, as constraints for pip.

python -m tests.support.lowest > lowest.txt
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["EXTRAS", "lowest"]

EXTRAS = ("cpu", "train", "yaml", "tensorboard")
"""The extras whose bounds are tried; `gpu` has those of `cpu`."""

_PROJECT = Path(__file__).parents[2] / "pyproject.toml"
_BOUND = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(\[.*\])?>=(?P<version>[0-9.]+)")


def lowest() -> Iterator[str]:
    """Return each dependency with its lowest version, as `name==version`.

    Raises:
        ValueError: A dependency has no lower bound.
    """
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *(line for name in EXTRAS for line in extras[name])]:
        match = _BOUND.fullmatch(line)
        if match is None:
            raise ValueError(f"pyproject.toml: '{line}' has no lower bound")
        yield f"{match['name']}=={match['version']}"


if __name__ == "__main__":
    print("\n".join(lowest()))
