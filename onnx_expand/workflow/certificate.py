"""Certificates: what was folded into what, by what, and how it was found to be the same."""

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
from onnx_expand.model import load
from onnx_expand.passes import Preprocess

__all__ = ["certify", "digests", "verify", "versions"]

SCHEMA = 2
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
    source: str,
    target: str,
    report: dict[str, Any],
    verdict: dict[str, Any] | None,
    preprocess: Preprocess | None = None,
) -> dict[str, Any]:
    """A certificate of a fold, as plain JSON types.

    Args:
        source: The model that was folded.
        target: The model that was written.
        report: What was folded, and why the rest was not.
        verdict: How the two were compared; None if they were not.
        preprocess: What was put in front of the source before it was folded, if anything.
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
    """What the output has to do with the input: the claim that the verdict is about."""
    if preprocess is None:
        return {"kind": "same", "text": "the output computes what the input does"}
    swapped = ", red and blue swapped" if preprocess.swap_rb else ""
    return {
        "kind": "preprocessed",
        "text": f"the output computes of x what the input does of (x - mean) / std{swapped}",
        "preprocess": {
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "swap_rb": preprocess.swap_rb,
            "input": preprocess.input,
        },
    }


def versions() -> dict[str, str]:
    """The versions of the installed packages that a result depends on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def verify(certificate: str, source: str, target: str) -> ir.Model | None:
    """See that two models are those that a certificate is about.

    Returns:
        What the target is to be compared with: the source after its preprocessing; None where
        that is the source itself.

    Raises:
        ModelError: The certificate cannot be read, or a file has other content than it says.
        UnsupportedError: The preprocessing does not fit the source.
    """
    try:
        data = parse_json(Path(certificate).read_text(encoding="utf-8"))
        stated = {key: dict(data[key]["sha256"]) for key in ("input", "output")}
        preprocess = _preprocess(data.get("relation", {"kind": "same"}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise ModelError(f"{certificate}: is no certificate of fold: {error}") from None
    for key, path in (("input", source), ("output", target)):
        # Models may have been renamed since; what they hold may not have changed.
        own, wanted = digests(path), stated[key]
        if sorted(own.values()) != sorted(wanted.values()):
            raise ModelError(
                f"{path}: is not the {key} of {certificate}: its content has changed since"
            )
    if preprocess is None:
        return None
    model = load(source)
    preprocess.call(model)
    return model


def _preprocess(relation: dict[str, Any]) -> Preprocess | None:
    """What a relation puts in front of the source; raises `ValueError` for an unknown kind."""
    if relation["kind"] == "same":
        return None
    if relation["kind"] != "preprocessed":
        raise ValueError(f"relation '{relation['kind']}' is not known")
    stated = relation["preprocess"]
    mean, std = (tuple(map(float, stated[name])) for name in ("mean", "std"))
    return Preprocess(mean, std, bool(stated["swap_rb"]), stated["input"])
