"""Certificates: what was folded into what, by what, and how it was found to be the same."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnx_expand.errors import ModelError
from onnx_expand.model import load

__all__ = ["certify", "digests", "verify"]

SCHEMA = 1
_PACKAGES = ("onnx-expand", "onnx", "onnx-ir", "numpy", "onnxruntime", "onnxruntime-gpu")


def digests(path: str | os.PathLike[str]) -> dict[str, str]:
    """The SHA-256 of a model's file and of the files that hold its weights, by file name.

    Raises:
        ModelError: A file cannot be read.
    """
    path = Path(path)
    model = load(path)
    files = {path}
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                files.add(path.parent / value.const_value.location)
    return {os.path.relpath(file, path.parent): _sha256(file) for file in sorted(files)}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None


def certify(
    source: str, target: str, report: dict[str, Any], verdict: dict[str, Any] | None
) -> dict[str, Any]:
    """A certificate of a fold, as plain JSON types.

    Args:
        source: The model that was folded.
        target: The model that was written.
        report: What was folded, and why the rest was not.
        verdict: How the two were compared; None if they were not.
    """
    return {
        "schema": SCHEMA,
        "input": {"name": Path(source).name, "sha256": digests(source)},
        "output": {"name": Path(target).name, "sha256": digests(target)},
        "tools": {**_versions(), "python": platform.python_version()},
        "fold": report,
        "verdict": verdict,
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def verify(certificate: str, source: str, target: str) -> None:
    """See that two models are those that a certificate is about.

    Raises:
        ModelError: The certificate cannot be read, or a file has other content than it says.
    """
    try:
        data = json.loads(Path(certificate).read_text(encoding="utf-8"))
        stated = {key: dict(data[key]["sha256"]) for key in ("input", "output")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{certificate}: is no certificate of fold: {error}") from None
    for key, path in (("input", source), ("output", target)):
        # Models may have been renamed since; what they hold may not have changed.
        own, wanted = digests(path), stated[key]
        if sorted(own.values()) != sorted(wanted.values()):
            raise ModelError(
                f"{path}: is not the {key} of {certificate}: its content has changed since"
            )
