"""Read inputs from files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError

from onnx_expand.equivalence.inputs.signature import Port, Signature
from onnx_expand.errors import ModelError, UsageError

__all__ = ["given_inputs", "read_inputs"]

Feeds = dict[str, npt.NDArray[Any]]


def read_inputs(path: str | os.PathLike[str]) -> list[tuple[str, Feeds]]:
    """Read inputs from a file or a folder, each with a name.

    Args:
        path: An `.npz` file with an array for each input; a folder of such files; or a folder of
            ONNX test data, `input_0.pb` and so on, which correspond to the inputs in order.

    Raises:
        UsageError: There is no such file or folder, or it is empty.
        ModelError: A file cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if files:
            return [(file.name, _npz(file)) for file in files]
        folders = [path, *sorted(p for p in path.iterdir() if p.is_dir())]
        found = [(folder.name, feeds) for folder in folders if (feeds := _protobufs(folder))]
        if not found:
            raise UsageError(f"{path}: contains neither .npz files nor input_0.pb")
        return found
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file or folder")
    return [(path.name, _npz(path))]


def _npz(path: Path) -> Feeds:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise ModelError(f"{path}: cannot be read as .npz: {error}") from None


def _protobufs(folder: Path) -> Feeds:
    feeds: Feeds = {}
    for number in range(len(list(folder.glob("input_*.pb")))):
        path = folder / f"input_{number}.pb"
        try:
            tensor = onnx.TensorProto.FromString(path.read_bytes())
            feeds[f"#{number}"] = onnx.numpy_helper.to_array(tensor)
        except (OSError, DecodeError, ValueError, TypeError) as error:
            raise ModelError(f"{path}: cannot be read as a tensor: {error}") from None
    return feeds


def given_inputs(
    samples: Iterator[tuple[str, Mapping[str, Any]]], signature: Signature
) -> Iterator[tuple[str, Feeds]]:
    """Convert samples to the inputs of a model.

    Raises:
        UsageError: An input is missing, unknown, or has another type or shape than the model's.
    """
    names = list(signature.inputs)
    for label, sample in samples:
        feeds = {
            names[int(name[1:])]
            if name.startswith("#") and int(name[1:]) < len(names)
            else name: np.asarray(array)
            for name, array in sample.items()
        }
        for name in feeds:
            if name not in signature.inputs:
                raise UsageError(
                    f"{label}: there is no input '{name}'; the inputs are {', '.join(names)}"
                )
        for name, port in signature.inputs.items():
            if name not in feeds:
                raise UsageError(f"{label}: input '{name}' is missing")
            feeds[name] = _fitting(label, port, feeds[name])
        yield label, feeds


def _fitting(label: str, port: Port, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert an array to the type of an input; floating-point values may change their width."""
    wanted = None if port.dtype is None else port.dtype.numpy()
    if wanted is not None and array.dtype != wanted:
        if array.dtype.kind != np.dtype(wanted).kind:
            raise UsageError(
                f"{label}: input '{port.name}' holds {array.dtype}; the model takes {port.dtype}"
            )
        array = array.astype(wanted)
    if port.shape is not None:
        fits = len(port.shape) == array.ndim and all(
            not isinstance(extent, int) or extent == size
            for extent, size in zip(port.shape, array.shape, strict=True)
        )
        if not fits:
            shape = ", ".join(str("?" if d is None else d) for d in port.shape)
            raise UsageError(
                f"{label}: input '{port.name}' has shape {list(array.shape)}; the model takes "
                f"[{shape}]"
            )
    return array
