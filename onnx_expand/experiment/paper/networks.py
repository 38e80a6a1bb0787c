"""The builders of the paper's networks, which lie beside the package or, installed, within it."""

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
    """The networks by name.

    Raises:
        UnsupportedError: They are not there.
    """
    name = "onnx_expand.models" if _WITHIN else "models"
    try:
        found: Mapping[str, Any] = importlib.import_module(name).networks()
    except (ImportError, AttributeError) as error:
        raise UnsupportedError(
            f"the paper's networks, package {name}, are not there; name an .onnx file instead"
        ) from error
    return found


def sources() -> list[Path]:
    """The folders of the code that decides what a run gives."""
    return [_PACKAGE] if _WITHIN else [_PACKAGE, _PACKAGE.parent / "models"]
