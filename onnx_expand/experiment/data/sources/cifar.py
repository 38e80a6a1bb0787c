"""CIFAR-10 and CIFAR-100 as published: Python or binary version, packed or unpacked."""

from __future__ import annotations

import functools
import io
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_expand.errors import ModelError
from onnx_expand.experiment.data.sources.base import Array, SourceData, Subset

__all__ = ["cifar", "is_cifar", "unpickle"]

_PIXELS = 3 * 32 * 32
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_FOLDERS = ("cifar-10-batches-py", "cifar-100-python", "cifar-10-batches-bin", "cifar-100-binary")
_ARCHIVES = (".tar.gz", ".tgz", ".tar")
# For each layout a file that only it has: (training, test, names, classes, bytes before pixels).
_LAYOUTS: Mapping[str, tuple[tuple[str, ...], str, str, int, int]] = {
    "data_batch_1": (_BATCHES, "test_batch", "batches.meta", 10, 0),
    "data_batch_1.bin": (
        tuple(f"{b}.bin" for b in _BATCHES), "test_batch.bin", "batches.meta.txt", 10, 1,
    ),
    "train.bin": (("train.bin",), "test.bin", "fine_label_names.txt", 100, 2),
    "meta": (("train",), "test", "meta", 100, 0),
}  # fmt: skip

Reader = Callable[[], bytes]


def is_cifar(path: Path) -> bool:
    """Return whether a directory or archive has one of these layouts."""
    if path.is_file():
        return path.name.endswith(_ARCHIVES)
    return any(name in _files(path) for name in _LAYOUTS)


def cifar(path: Path) -> SourceData:
    """Load the images, uint8 [N, 3, 32, 32], with the fine labels of CIFAR-100.

    Raises:
        ModelError: A file is missing, truncated or invalid.
    """
    try:
        files = _files(path)
        layout = next((name for name in _LAYOUTS if name in files), None)
        if layout is None:
            raise ModelError(f"{path}: contains no files of CIFAR-10 or CIFAR-100")
        trains, test, meta, classes, header = _LAYOUTS[layout]
        missing = sorted({*trains, test} - files.keys())
        if missing:
            raise ModelError(f"{path}: the file {missing[0]} of CIFAR-{classes} is missing")
        read = functools.partial(_binary, header=header) if header else _pickled
        loaded = [read(files[name](), f"{path}/{name}") for name in (*trains, test)]
        names = _names(files.get(meta), header, classes)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    for _, y in loaded:
        if y.min() < 0 or y.max() >= classes:
            raise ModelError(f"{path}: a label is not in 0..{classes - 1}")
    x = np.concatenate([part[0] for part in loaded[:-1]])
    y = np.concatenate([part[1] for part in loaded[:-1]])
    return SourceData(Subset(x, y), Subset(*loaded[-1]), names, True)


def _files(path: Path) -> dict[str, Reader]:
    """Map the name of each file in a directory or archive to its reader."""
    if path.is_file():
        with tarfile.open(path) as archive:
            content = {}
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    content[PurePosixPath(member.name).name] = stream.read()
        return {name: functools.partial(bytes, data) for name, data in content.items()}
    roots = [path, *(path / name for name in _FOLDERS)]
    root = next((r for r in roots if any((r / n).is_file() for n in _LAYOUTS)), path)
    return {file.name: file.read_bytes for file in root.iterdir() if file.is_file()}


def _binary(data: bytes, label: str, header: int) -> tuple[Array, Array]:
    record = header + _PIXELS
    if not data or len(data) % record:
        raise ModelError(
            f"{label}: has {len(data)} bytes, no multiple of the {record} of an image; it is "
            "truncated"
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    # CIFAR-100 stores the coarse label before the fine one.
    y = rows[:, header - 1].astype(np.int64)
    return np.ascontiguousarray(rows[:, header:]).reshape(-1, 3, 32, 32), y


def _pickled(data: bytes, label: str) -> tuple[Array, Array]:
    content = unpickle(data, label)
    if not isinstance(content, dict):
        raise ModelError(f"{label}: not a batch of CIFAR: it contains a {type(content).__name__}")
    content = {_text(key): value for key, value in content.items()}
    x, y = content.get("data"), content.get("labels", content.get("fine_labels"))
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.ndim != 2:
        raise ModelError(f"{label}: not a batch of CIFAR: 'data' is not an array of bytes")
    if x.shape[1] != _PIXELS or not isinstance(y, list) or len(y) != len(x) or not y:
        raise ModelError(f"{label}: not a batch of CIFAR: images and labels do not fit")
    if not all(isinstance(value, int) for value in y):
        raise ModelError(f"{label}: not a batch of CIFAR: a label is not an integer")
    return x.reshape(-1, 3, 32, 32), np.array(y, dtype=np.int64)


def _names(read: Reader | None, header: int, classes: int) -> tuple[str, ...]:
    numbers = tuple(str(number) for number in range(classes))
    if read is None:
        return numbers
    if header:
        names = tuple(line.strip() for line in read().decode("utf-8", "replace").splitlines())
    else:
        content = unpickle(read(), "meta")
        content = content if isinstance(content, dict) else {}
        by_key = {_text(key): value for key, value in content.items()}
        found = by_key.get("label_names", by_key.get("fine_label_names", []))
        names = tuple(map(_text, found)) if isinstance(found, list) else ()
    names = tuple(name for name in names if name)
    return names if len(names) == classes else numbers


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def unpickle(data: bytes, label: str) -> Any:
    """Read a pickle that contains only plain values and numpy arrays.

    A pickle can call any function by name. This reader allows only the three names that arrays
    consist of, and refuses all others before anything is called.

    Raises:
        ModelError: It names something else, or is not a pickle.
    """
    try:
        return _Arrays(io.BytesIO(data), encoding="bytes").load()
    except _ForeignError as error:
        raise ModelError(f"{label}: refused: the pickle wants {error}; CIFAR's do not") from None
    except Exception as error:
        # Damaged pickles raise arbitrary exceptions.
        raise ModelError(f"{label}: not a pickle, or a damaged one: {error}") from None


class _ForeignError(Exception):
    """The pickle names something that is not part of an array."""


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> npt.NDArray[Any]:
    # The empty array into which the state is then loaded.
    if kind is not np.ndarray or shape != (0,):
        raise _ForeignError(f"an array of kind {kind!r}")
    return np.ndarray((0,), np.int8)


def _encode(text: str, encoding: str) -> bytes:
    # The way in which Python 3 writes bytes in the pickle protocols of Python 2.
    if encoding not in {"latin1", "latin-1"}:
        raise _ForeignError(f"the encoding {encoding!r}")
    return text.encode("latin1")


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _ForeignError(f"{module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _ForeignError("an object from elsewhere")
