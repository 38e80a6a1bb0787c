"""Results of runs on disk, keyed by their inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx_expand.model import make_folder, replacing

__all__ = ["Store"]


class Store:
    """A folder with one folder for each run: its result and models, or its checkpoint.

    Raises:
        UsageError: It cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path)

    def folder(self, key: str) -> Path:
        """Return the folder of one run, creating it if necessary."""
        found = self.path / key
        found.mkdir(exist_ok=True)
        return found

    def result(self, key: str) -> Mapping[str, Any] | None:
        """Return the result of a run; None if it has not ended or its file is damaged."""
        try:
            found = json.loads((self.path / key / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def keep(self, key: str, result: Mapping[str, Any]) -> None:
        """Store the result of a run, and remove its checkpoint."""
        folder = self.folder(key)
        with replacing(folder / "result.json") as partial:
            partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        for rest in folder.glob("checkpoint*"):
            rest.unlink()
