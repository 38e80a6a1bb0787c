"""`onnx-expand models`."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import click

import onnx_expand
from onnx_expand.errors import UnsupportedError

__all__ = ["models"]


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def models(words: tuple[str, ...]) -> int:
    """Build a network of the ExpandNets paper with fresh weights, or list them.

    \b
    Examples:
      onnx-expand models list
      onnx-expand models smallnet --kernel 7 -o compact.onnx
    """
    code: int = _command().main(list(words), "onnx-expand models")
    return code


def _command() -> ModuleType:
    """Import the networks, which a wheel has inside the package and a checkout beside it."""
    ours = Path(onnx_expand.__file__).parent
    for package, place in (("onnx_expand.models", ours), ("models", ours.parent)):
        spec = importlib.util.find_spec(package)
        # A package `models` elsewhere on the path may belong to the user.
        if (
            spec is not None
            and spec.origin is not None
            and Path(spec.origin).is_relative_to(place)
        ):
            return importlib.import_module(f"{package}.__main__")
    raise UnsupportedError(
        "the networks are not installed: install the wheel, or run in the project's folder"
    )
