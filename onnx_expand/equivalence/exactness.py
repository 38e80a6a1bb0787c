"""Find models whose constants cannot have been rounded by a rewrite."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from onnx_expand.equivalence.subject import Subject
from onnx_expand.errors import UnsupportedError
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.runtimes.base import Tensors
from onnx_expand.runtimes.reference import Reference

__all__ = ["exact_reference"]

_BITS = 8  # of the significand of a value that somebody wrote, such as 0.5 or 255


def exact_reference(a: Subject, b: Subject) -> Callable[[Tensors], Tensors]:
    """Return B in float64, or a function without results if B may contain rounded constants.

    A folded weight is rounded, so that a discontinuous function of it may jump at other inputs. If
    B's constants are those of A or short values, both models in float64 compute exact results.
    """
    if not _is_plain(a.model, b.model):
        return lambda feeds: {}
    try:
        session = Reference().session(b.source, b.label)
    except UnsupportedError:
        return lambda feeds: {}

    def run(feeds: Tensors) -> Tensors:
        try:
            return session.run(feeds)
        except UnsupportedError:
            return {}

    return run


def _is_plain(a: ir.Model, b: ir.Model) -> bool:
    known = {_key(tensor) for tensor in _floats(a)}
    return all(_is_short(tensor) or _key(tensor) in known for tensor in _floats(b))


def _floats(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype.is_floating_point():
                yield value.const_value
        for node in graph:
            tensor = node.attributes.get("value") if node.op_type == "Constant" else None
            if (
                tensor is not None
                and not tensor.is_ref()
                and tensor.value.dtype.is_floating_point()
            ):
                yield tensor.value


def _key(tensor: ir.TensorProtocol) -> tuple[object, ...]:
    return (tensor.dtype, tensor.tobytes())


def _is_short(tensor: ir.TensorProtocol) -> bool:
    fraction, _ = np.frexp(np.asarray(read_tensor(tensor), np.float64))
    scaled = fraction * 2.0**_BITS
    return bool(np.all((scaled == np.floor(scaled)) | ~np.isfinite(scaled)))
