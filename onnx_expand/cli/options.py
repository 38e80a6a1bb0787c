"""What several commands do with their options."""

from __future__ import annotations

from onnx_expand.errors import UsageError
from onnx_expand.model import check_output

__all__ = ["check_outputs"]


def check_outputs(*paths: str | None) -> None:
    """Find out before the work begins that a result could not be written."""
    for path in paths:
        if path and path != "-":
            check_output(path)
        elif path == "":
            raise UsageError("an output path is empty; name a file")
