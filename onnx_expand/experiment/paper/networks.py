"""The builders of the paper's networks, beside the package or, when installed, inside it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_expand
from onnx_expand.errors import UnsupportedError

__all__ = ["builders", "sources"]

_PACKAGE = Path(onnx_expand.__file__).parent
_WITHIN = (_PACKAGE / "models").is_dir()


def builders() -> Mapping[str, Any]:
    """Return the networks by name.

    Raises:
        UnsupportedError: They are missing.
    """
    name = "onnx_expand.models" if _WITHIN else "models"
    try:
        found: Mapping[str, Any] = importlib.import_module(name).networks()
    except (ImportError, AttributeError) as error:
        raise UnsupportedError(
            f"the paper's networks, package {name}, cannot be imported: {error}; name an .onnx "
            "file instead"
        ) from error
    return found


def sources() -> list[Path]:
    """Return the folders of code that affects the result of a run."""
    return [_PACKAGE] if _WITHIN else [_PACKAGE, _PACKAGE.parent / "models"]
