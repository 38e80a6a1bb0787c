"""One of the two models of a comparison, as runtimes load it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnx_expand.equivalence.inputs.signature import Signature
from onnx_expand.equivalence.ports import with_plain_ports
from onnx_expand.model import ModelLike, load, read
from onnx_expand.runtimes.base import Source
from onnx_expand.runtimes.loops import may_be_endless

__all__ = ["Subject"]

_BINARY = frozenset({"", ".onnx", ".pb"})


@dataclass(frozen=True)
class Subject:
    """One of the two models.

    Attributes:
        letter: A or B.
        label: The name in messages.
        source: The source that runtimes load: the file itself if they can read it.
        model: The model.
        signature: Its inputs and outputs, as arrays represent them.
        own: Its inputs and outputs as declared.
    """

    letter: str
    label: str
    source: Source
    model: ir.Model
    signature: Signature
    own: Signature

    @classmethod
    def of(cls, given: ModelLike, letter: str) -> Subject:
        """Read one of the two models.

        Raises:
            ModelError: It cannot be read.
        """
        path = Path(given) if isinstance(given, str | os.PathLike) else None
        own = load(path) if path is not None else read(given)
        model = with_plain_ports(own)
        label = f"{letter} ({path or own.graph.name or 'model'})"
        as_file = path is not None and path.suffix in _BINARY and model is own
        as_file = as_file and not may_be_endless(model)  # runs of files have no limit of time
        source: Source = path if path is not None and as_file else model
        return cls(letter, label, source, model, Signature.of(model), Signature.of(own))
