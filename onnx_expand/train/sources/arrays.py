"""Arrays in an .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnx_expand.errors import ModelError
from onnx_expand.train.sources.base import Array, Found, Kind, Part, every_fifth, numbered

__all__ = ["from_arrays", "npz"]

_WHOLE = {"x", "y"}
_PARTS = {"x_train", "y_train", "x_test", "y_test"}


def npz(path: Path, *, images: bool = True) -> Found:
    """Arrays `x` and `y`, or `x_train`, `y_train`, `x_test` and `y_test`.

    Args:
        path: The file.
        images: See `from_arrays`.

    Raises:
        ModelError: The file is no .npz, has other arrays, or arrays of the wrong shape or type.
    """
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ModelError(f"{path}: not an .npz file; write it with numpy.savez")
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: not an .npz file of plain arrays: {error}") from None
    return from_arrays(arrays, str(path), images=images)


def from_arrays(arrays: Mapping[str, Array], label: str, *, images: bool = True) -> Found:
    """Data of named arrays: images [N, C, H, W] or [N, H, W].

    Targets are classes [N], or for each pixel [N, H, W].

    Args:
        arrays: The arrays.
        label: How errors name them.
        images: Whether inputs are images, not of any other shape [N, ...].

    Raises:
        ModelError: There are other arrays, or some of the wrong shape or type.
    """
    if arrays.keys() >= _WHOLE:
        x, y = _pair(arrays, "x", "y", label, images)
        test = every_fifth(y if y.ndim == 1 else np.zeros(len(y)))
        train, held = Part(x[~test], y[~test]), Part(x[test], y[test])
    elif arrays.keys() >= _PARTS:
        train = Part(*_pair(arrays, "x_train", "y_train", label, images))
        held = Part(*_pair(arrays, "x_test", "y_test", label, images))
        x, y = np.asarray(train.x), np.asarray(train.y)
        if np.asarray(held.x).dtype != x.dtype or np.asarray(held.y).ndim != y.ndim:
            raise ModelError(f"{label}: training and test arrays are not of one kind")
        y = np.concatenate([y.ravel(), np.asarray(held.y).ravel()])
    else:
        raise ModelError(
            f"{label}: holds {', '.join(sorted(arrays)) or 'nothing'}; wanted are x and y, or "
            "x_train, y_train, x_test and y_test"
        )
    dense = np.asarray(train.y).ndim == 3
    kind: Kind = "segment" if dense else "classify"
    names = () if dense else numbered(y)
    return Found(train, held, names, x.dtype.kind in "iu", kind)


def _pair(
    arrays: Mapping[str, Array], inputs: str, labels: str, label: str, images: bool
) -> tuple[Array, Array]:
    x, y = arrays[inputs], arrays[labels]
    wrong = x.ndim not in {3, 4} if images else x.ndim < 1
    if wrong or x.size == 0 or x.dtype.kind not in "fiu":
        raise ModelError(
            f"{label}: '{inputs}' is {x.dtype} {list(x.shape)}; wanted are numbers [N, C, H, W] "
            "or [N, H, W]"
        )
    dense = y.ndim == 3 and x.ndim >= 3 and y.shape == (len(x), *x.shape[-2:])
    if y.dtype.kind not in "iu" or not (y.shape == (len(x),) or dense):
        raise ModelError(
            f"{label}: '{labels}' is {y.dtype} {list(y.shape)}; wanted are integers [{len(x)}], "
            "or one for each pixel"
        )
    if not np.isfinite(x).all():
        raise ModelError(f"{label}: '{inputs}' holds NaN or infinity")
    return x, y.astype(np.int64)
