"""Arrays in an .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnx_expand.errors import ModelError
from onnx_expand.experiment.data.sources.base import (
    Array,
    Kind,
    Request,
    SourceData,
    Subset,
    every_fifth,
    numbered,
)

__all__ = ["from_arrays", "npz"]

_WHOLE = {"x", "y"}
_PARTS = {"x_train", "y_train", "x_test", "y_test"}


def npz(path: Path, request: Request) -> SourceData:
    """Load arrays `x` and `y`, or `x_train`, `y_train`, `x_test` and `y_test`.

    Raises:
        ModelError: The file is not an .npz file, or has other arrays, or arrays of a wrong shape
            or type.
    """
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ModelError(f"{path}: not an .npz file; write it with numpy.savez")
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: not an .npz file of plain arrays: {error}") from None
    return from_arrays(arrays, str(path), request)


def from_arrays(arrays: Mapping[str, Array], label: str, request: Request) -> SourceData:
    """Create data from named arrays: images [N, C, H, W] or [N, H, W].

    Targets are classes [N], or a class for each pixel [N, H, W], or any values for a custom loss.

    Args:
        arrays: The arrays.
        label: The name in error messages.
        request: Whether inputs are images, or of any other shape [N, ...]; and whether targets
            may be any values.

    Raises:
        ModelError: There are other arrays, or some of a wrong shape or type.
    """
    if arrays.keys() >= _WHOLE:
        x, y = _pair(arrays, "x", "y", label, request)
        test = every_fifth(y if _kind(y) == "classify" else np.zeros(len(y)))
        train, held = Subset(x[~test], y[~test]), Subset(x[test], y[test])
    elif arrays.keys() >= _PARTS:
        train = Subset(*_pair(arrays, "x_train", "y_train", label, request))
        held = Subset(*_pair(arrays, "x_test", "y_test", label, request))
        x, y = np.asarray(train.x), np.asarray(train.y)
        other = np.asarray(held.y)
        if np.asarray(held.x).dtype != x.dtype or (other.ndim, other.dtype) != (y.ndim, y.dtype):
            raise ModelError(f"{label}: training and test arrays are not of one kind")
    else:
        raise ModelError(
            f"{label}: contains {', '.join(sorted(arrays)) or 'nothing'}; it must contain x and "
            "y, or x_train, y_train, x_test and y_test"
        )
    kind = _kind(y)
    every = np.concatenate([np.asarray(part.y).ravel() for part in (train, held)])
    names = numbered(every) if kind == "classify" else ()
    return SourceData(train, held, names, x.dtype.kind in "iu", kind)


def _kind(y: Array) -> Kind:
    """Return the task for which targets are meant."""
    if y.dtype.kind == "f" or y.ndim not in {1, 3}:
        return "numbers"
    return "segment" if y.ndim == 3 else "classify"


def _pair(
    arrays: Mapping[str, Array], inputs: str, labels: str, label: str, request: Request
) -> tuple[Array, Array]:
    x, y = arrays[inputs], arrays[labels]
    wrong = x.ndim not in {3, 4} if request.channels else x.ndim < 1
    if wrong or x.size == 0 or x.dtype.kind not in "fiu":
        raise ModelError(
            f"{label}: '{inputs}' is {x.dtype} {list(x.shape)}; it must be numbers [N, C, H, W] "
            "or [N, H, W]"
        )
    for name, array in ((inputs, x), (labels, y)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelError(f"{label}: '{name}' contains NaN or infinity")
    dense = y.ndim == 3 and x.ndim >= 3 and y.shape == (len(x), *x.shape[-2:])
    if y.dtype.kind in "iu" and (y.shape == (len(x),) or dense):
        return x, y.astype(np.int64)
    if request.numbers and y.dtype.kind in "fiu" and y.shape[:1] == x.shape[:1]:
        return x, y.astype(np.float32)
    raise ModelError(
        f"{label}: '{labels}' is {y.dtype} {list(y.shape)}; it must be integers [{len(x)}], or "
        "one for each pixel; other targets need --loss"
    )
