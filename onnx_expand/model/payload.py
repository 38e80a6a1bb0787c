"""Check that tensor data is present and that its size matches type and shape.

No data is read and no memory is allocated, whatever sizes a model declares.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx_ir as ir

from onnx_expand.errors import ModelError
from onnx_expand.model.outline import PAYLOADS

__all__ = ["check_payloads"]

_INT32 = {
    *("FLOAT16", "BFLOAT16", "BOOL", "INT8", "UINT8", "INT16", "UINT16", "INT32", "INT4", "UINT4"),
    *("INT2", "UINT2", "FLOAT4E2M1", "FLOAT6E2M3", "FLOAT6E3M2", "FLOAT8E4M3FN", "FLOAT8E5M2"),
    *("FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"),
}
_FIELDS = {
    **dict.fromkeys(_INT32, "int32_data"),
    **dict.fromkeys(("FLOAT", "COMPLEX64"), "float_data"),
    **dict.fromkeys(("DOUBLE", "COMPLEX128"), "double_data"),
    **dict.fromkeys(("UINT32", "UINT64"), "uint64_data"),
    "INT64": "int64_data",
    "STRING": "string_data",
}


def check_payloads(
    tensors: Iterable[tuple[str, onnx.TensorProto]], label: str, base: Path | None
) -> None:
    """Refuse tensors whose data is missing, too short, too long, or out of bounds.

    Args:
        tensors: The tensors of a model, each with its name for messages.
        label: The model's name in messages.
        base: The directory of its file, which contains its external data; None for a model that
            was not read from a file.

    Raises:
        ModelError: The data of a tensor does not match its declaration.
    """
    for what, tensor in tensors:
        problem = _problem(tensor, base)
        if problem:
            raise ModelError(f"{label}: {what} {problem}")


def _problem(tensor: onnx.TensorProto, base: Path | None) -> str:
    """Return what is wrong with a tensor; empty if nothing is."""
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        return f"has a data type that does not exist ({tensor.data_type})"
    if dtype == ir.DataType.UNDEFINED:
        return "has no data type"
    if any(d < 0 for d in tensor.dims):
        return f"has a negative extent in its shape {list(tensor.dims)}"
    elements = math.prod(tensor.dims)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        if dtype == ir.DataType.STRING:
            return "holds strings, which no external file can hold"
        return _external_problem(tensor, (elements * dtype.bitwidth + 7) // 8, base)
    if tensor.HasField("raw_data"):
        if dtype == ir.DataType.STRING:
            return "holds strings in raw_data, where ONNX has none"
        needed, held = (elements * dtype.bitwidth + 7) // 8, len(tensor.raw_data)
        return "" if held == needed else _amount(tensor, f"{held} bytes", str(needed))
    return _typed_problem(tensor, dtype, elements)


def _typed_problem(tensor: onnx.TensorProto, dtype: ir.DataType, elements: int) -> str:
    field = _FIELDS.get(dtype.name)
    if field is None:
        return f"has a data type without numbers ({dtype.name})"
    filled = [name for name in PAYLOADS - {"raw_data"} if len(getattr(tensor, name))]
    if filled and filled != [field]:
        other = next(name for name in sorted(filled) if name != field)
        return f"is of type {dtype.name} but holds {other}"
    needed = elements
    if "COMPLEX" in dtype.name:
        needed = 2 * elements
    elif dtype != ir.DataType.STRING and dtype.bitwidth in {2, 4}:  # several elements per byte
        needed = (elements * dtype.bitwidth + 7) // 8
    held = len(getattr(tensor, field))
    return "" if held == needed else _amount(tensor, f"{held} numbers", str(needed))


def _amount(tensor: onnx.TensorProto, held: str, needed: str) -> str:
    return f"has the shape {list(tensor.dims)}, which needs {needed}, but holds {held}"


def _external_problem(tensor: onnx.TensorProto, needed: int, base: Path | None) -> str:
    if base is None:
        return "lies in another file, which a model in memory does not lead to; give its path"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or needed)
    except ValueError:
        return "has an offset or a length in its external data that is no number"
    if offset < 0 or length < 0:
        return "has a negative offset or length in its external data"
    if length != needed:
        return _amount(tensor, f"{length} bytes of external data", str(needed))
    size, problem = _size(base, location)
    if not problem and offset + length > size:
        end = offset + length
        problem = f"ends at byte {end} of '{location}', which holds {size}; is it cut off?"
    return problem


def _size(base: Path, location: str) -> tuple[int, str]:
    """Return the size of an external data file, and what is wrong with it."""
    if not location or "\0" in location:
        return 0, "has external data without a location"
    # The model may come from a system with the other path separator.
    plain = location.replace("\\", "/")
    if Path(location).is_absolute() or plain.startswith("/") or plain[1:2] == ":":
        return 0, f"has external data at the absolute path '{location}', which is refused"
    path, root = base / location, os.path.realpath(base)
    inside = os.path.commonpath([root, os.path.realpath(path)]) == root
    if not inside:
        return 0, f"has external data at '{location}', outside the directory of the model"
    try:
        status = path.stat()
    except OSError as error:
        reason = error.strerror or error
        return 0, f"has external data at '{location}', which cannot be read: {reason}"
    if not stat.S_ISREG(status.st_mode) or plain.endswith("/"):
        return 0, f"has external data at '{location}', which is no regular file"
    if status.st_nlink > 1:
        return 0, f"has external data at '{location}', a file with other (hard) links; copy it"
    return status.st_size, ""
