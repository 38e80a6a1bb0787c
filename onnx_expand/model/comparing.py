"""Compare protobuf messages by meaning, and find content that no reader can decode."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from onnx_expand.model.outline import is_repeated

__all__ = ["difference", "oddity"]

# Lists without a meaningful order, and the field that identifies their entries.
_KEYS = {
    "OperatorSetIdProto": "domain",
    "StringStringEntryProto": "key",
    "TensorAnnotation": "tensor_name",
}
# onnx-ir writes these itself; a checksum covers the whole file and is computed when it is written.
_EXTERNAL_KEYS = {"location", "offset", "length", "checksum"}


def difference(one: Message, other: Message, place: str = "") -> str:
    """Return the path of the first field whose meaning differs, or an empty string.

    An absent field equals its default, except where ONNX distinguishes them. Lists that represent
    dictionaries are compared without regard to order.
    """
    if one == other:
        return ""
    for field in one.DESCRIPTOR.fields:
        here = f"{place}.{field.name}" if place else field.name
        a, b = getattr(one, field.name), getattr(other, field.name)
        if is_repeated(field):
            found = _list_difference(field, a, b, here)
        elif field.message_type is not None:
            if one.HasField(field.name) != other.HasField(field.name):
                return here
            found = difference(a, b, here)
        elif field.containing_oneof is not None and not a and not b:
            # An extent of 0 is known; an empty dimension name means unknown.
            both = one.HasField(field.name) == other.HasField(field.name)
            found = "" if both or isinstance(a, str) else here
        else:
            found = "" if _same(a, b) else here
        if found:
            return found
    return ""


def _list_difference(field: Any, a: Sequence[Any], b: Sequence[Any], here: str) -> str:
    kind = field.message_type
    if kind is None:
        same = len(a) == len(b) and all(map(_same, a, b))
        return "" if same else here
    key = _KEYS.get(kind.name) or ("name" if field.name == "value_info" else None)
    if field.name == "external_data":
        extra = sorted({entry.key for entry in a} - _EXTERNAL_KEYS)
        if extra:
            return f"{here} '{extra[0]}'"
        a, b = ([entry for entry in c if entry.key != "checksum"] for c in (a, b))
    if key is not None:
        a, b = (_unique(sorted(c, key=lambda entry: str(getattr(entry, key)))) for c in (a, b))
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        found = difference(left, right, f"{here}[{_label(left) or index}]")
        if found:
            return found
    if len(a) == len(b):
        return ""
    missing = (a if len(a) > len(b) else b)[min(len(a), len(b))]
    return f"{here}[{_label(missing) or min(len(a), len(b))}]"


def _unique(entries: Sequence[Message]) -> list[Message]:
    """Return the entries sorted, without duplicates."""
    return [e for i, e in enumerate(entries) if i == 0 or e != entries[i - 1]]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("<d", a) == struct.pack("<d", b)  # NaN equals NaN; -0 is not 0
    return bool(a == b)


def _label(message: Message) -> str:
    for name in ("name", "key", "tensor_name", "op_type", "domain"):
        text = getattr(message, name, "")
        if isinstance(text, str) and text:
            return f"'{text}'"
    return ""


# -- Content that no reader can decode --------------------------------------------------------


def oddity(message: Message, place: str = "") -> str:
    """Return the first content that this version of ONNX does not define, or an empty string.

    That is an unknown field, or text that is not UTF-8, which protobuf accepts.
    """
    if len(UnknownFieldSet(message)):
        number = UnknownFieldSet(message)[0].field_number
        return f"a field that this version of ONNX does not know (number {number}) in {place}"
    texts, children = _fields(message.DESCRIPTOR)
    for name, repeated in texts:
        value = getattr(message, name)
        for text in value if repeated else (value,):
            if isinstance(text, bytes):
                return f"text that is not UTF-8 in {place}.{name}"
    for name, repeated in children:
        if not repeated and not message.HasField(name):
            continue
        value = getattr(message, name)
        for child in value if repeated else (value,):
            label = _label(child)
            found = oddity(child, f"{place}.{name}[{label}]" if label else f"{place}.{name}")
            if found:
                return found
    return ""


@cache
def _fields(descriptor: Descriptor) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Return the names of the text and of the message fields, and whether each is repeated."""
    fields = [(field, is_repeated(field)) for field in descriptor.fields]
    texts = [(f.name, many) for f, many in fields if f.type == FieldDescriptor.TYPE_STRING]
    return texts, [(f.name, many) for f, many in fields if f.message_type is not None]
