"""Certificates of folds: hashes of both models, versions, the report and the verdict."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnx_expand.documents import parse_json
from onnx_expand.errors import ModelError, UsageError
from onnx_expand.model import load, weight_files
from onnx_expand.passes import Preprocess

__all__ = ["certify", "digests", "verify", "versions"]

SCHEMA = 2
_PACKAGES = ("onnx-expand", "onnx", "onnx-ir", "numpy", "onnxruntime", "onnxruntime-gpu")


def digests(path: str | os.PathLike[str]) -> dict[str, str]:
    """Compute the SHA-256 of a model's file and of its external data, by file name.

    Raises:
        ModelError: A file cannot be read.
    """
    path = Path(path)
    files = {path, *weight_files(load(path))}
    return {os.path.relpath(file, path.parent): _sha256(file) for file in sorted(files)}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None


def certify(
    source: str,
    target: str,
    report: dict[str, Any],
    verdict: dict[str, Any] | None,
    preprocess: Preprocess | None = None,
) -> dict[str, Any]:
    """Return the certificate of a fold as plain JSON types.

    Args:
        source: The model that was folded.
        target: The model that was written.
        report: The report of the fold.
        verdict: The verdict of check; None if the models were not compared.
        preprocess: The preprocessing that was inserted before the fold, if any.
    """
    return {
        "schema": SCHEMA,
        "relation": _relation(preprocess),
        "input": {"name": Path(source).name, "sha256": digests(source)},
        "output": {"name": Path(target).name, "sha256": digests(target)},
        "tools": {**versions(), "python": platform.python_version()},
        "fold": report,
        "verdict": verdict,
    }


def _relation(preprocess: Preprocess | None) -> dict[str, Any]:
    """Return the relation of the output to the input, which the verdict is about."""
    if preprocess is None:
        return {"kind": "same", "text": "the output computes the same as the input"}
    swapped = ", red and blue swapped" if preprocess.swap_rb else ""
    return {
        "kind": "preprocessed",
        "text": f"output(x) is the same as input(y) of y = (x - mean) / std{swapped}",
        "preprocess": {
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "swap_rb": preprocess.swap_rb,
            "input": preprocess.input,
        },
    }


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that results depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def verify(certificate: str, source: str, target: str) -> ir.Model | None:
    """Verify that two models are those of a certificate.

    Returns:
        The model to compare the target with: the source with its preprocessing inserted; None if
        that is the source itself.

    Raises:
        ModelError: The certificate cannot be read, or a file has a different hash.
        UnsupportedError: The preprocessing does not fit the source.
    """
    try:
        data = parse_json(Path(certificate).read_text(encoding="utf-8"))
        stated = {key: dict(data[key]["sha256"]) for key in ("input", "output")}
        preprocess = _preprocess(data.get("relation", {"kind": "same"}))
    except OSError as error:
        raise ModelError(f"{certificate}: cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise ModelError(f"{certificate}: is not a certificate of fold: {error}") from None
    for key, path in (("input", source), ("output", target)):
        # Files may have been renamed, but their contents must be unchanged.
        own, wanted = digests(path), stated[key]
        if sorted(own.values()) != sorted(wanted.values()):
            raise ModelError(f"{path}: is not the {key} of {certificate}: its content has changed")
    if preprocess is None:
        return None
    model = load(source)
    preprocess.call(model)
    return model


def _preprocess(relation: dict[str, Any]) -> Preprocess | None:
    """Return the preprocessing that a relation states; raises `ValueError` for an unknown kind."""
    if relation["kind"] == "same":
        return None
    if relation["kind"] != "preprocessed":
        raise ValueError(f"relation '{relation['kind']}' is unknown")
    stated = relation["preprocess"]
    mean, std = (tuple(map(float, stated[name])) for name in ("mean", "std"))
    return Preprocess(mean, std, bool(stated["swap_rb"]), stated["input"])
