"""Verify the result of a pass before it is returned or written.

If the source does not run here, the result is *not checked*. If the source runs and the result
does not, the result differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from onnx_expand.equivalence import CheckOptions, Verdict, check
from onnx_expand.equivalence.ports import with_plain_ports
from onnx_expand.errors import DifferentError, UnsupportedError
from onnx_expand.graph.facts import Facts
from onnx_expand.model import ModelLike, read
from onnx_expand.passes.report import Verification
from onnx_expand.runtimes.base import Tensors
from onnx_expand.runtimes.ort import OnnxRuntime

__all__ = ["require_equal", "verify"]

Shapes = Mapping[str, Sequence[int | str]]

_HUGE = 1 << 28  # elements of one tensor: a gigabyte, and a run needs several
_LARGE = 1 << 30  # bytes of weights; less always fits
_COPIES = 9  # copies of the weights in memory: 8.2 were measured for matrix products


def verify(
    source: ModelLike,
    result: ir.Model,
    *,
    samples: int | None = None,
    shapes: Shapes | None = None,
    exact: bool = True,
) -> Verification:
    """Compare a source with the result of a pass.

    Args:
        source: The model before the pass.
        result: The model after the pass.
        samples: Inputs of each kind. By default 1, and a source that does not run is no error.
        shapes: Extents of inputs, as for `check`.
        exact: Whether the result should compute the same. Otherwise there is a verdict only if it
            does not run, or returns tensors of other shapes or types.

    Returns:
        The verdict, or why there is none.

    Raises:
        UnsupportedError: Samples were requested, and the source does not run here.
        UsageError: A shape is invalid.
    """
    obstacle = "" if samples is not None and exact else _too_large(result)
    if obstacle:
        return Verification(None, f"not checked: {obstacle}")
    if not exact:
        return _verify_runs(source, result, shapes)
    options = CheckOptions(samples=samples or 1, shapes=shapes)
    try:
        verdict = check(source, result, options)
    except (UnsupportedError, MemoryError) as error:
        try:
            check(source, source, replace(options, regions=False))
        except (UnsupportedError, MemoryError) as own:
            if samples is not None:
                raise
            return Verification(None, f"not checked: {_text(own)}")
        return _broken(f"A runs, and B does not: {_text(error)}")
    return Verification(verdict, f"checked: {verdict.summary()}")


def _verify_runs(source: ModelLike, result: ir.Model, shapes: Shapes | None) -> Verification:
    """Check that a model with other weights runs if the source does."""
    try:
        runs = check(
            source, source, CheckOptions(samples=1, shapes=shapes, rtol=0.0, regions=False)
        )
        session = OnnxRuntime().session(with_plain_ports(read(source)), "A")
        wanted = {name: _shapes(session.run(feeds)) for name, feeds in runs.inputs.items()}
    except (UnsupportedError, MemoryError) as error:
        return Verification(None, f"not checked: {_text(error)}")
    try:
        session = OnnxRuntime().session(with_plain_ports(result), "B")
        found = {name: _shapes(session.run(feeds)) for name, feeds in runs.inputs.items()}
    except (UnsupportedError, MemoryError) as error:
        return _broken(f"A runs, and B does not: {_text(error)}")
    for sample in wanted:
        if found[sample] != wanted[sample]:
            text = f"outputs are {found[sample]} in B, {wanted[sample]} in A, on {sample}"
            return _broken(text)
    text = f"runs on all {len(wanted)} inputs, with outputs of the same shapes and new values"
    return Verification(None, text)


def _shapes(results: Tensors) -> dict[str, str]:
    return {name: f"{array.dtype}{list(array.shape)}" for name, array in results.items()}


def _broken(difference: str) -> Verification:
    verdict = Verdict(False, (difference,), (), "running", ())
    return Verification(verdict, f"checked: {verdict.summary()}")


def require_equal(found: Verification, label: str) -> Verification:
    """Return the verification unless it found a difference.

    Raises:
        DifferentError: The two models differ.
    """
    if found.equal is False:
        raise DifferentError(f"{label}: {found.verdict.summary()}")
    return found


def _text(error: BaseException) -> str:
    return f"not enough memory: {error}" if isinstance(error, MemoryError) else str(error)


def _too_large(model: ir.Model) -> str:
    """Return why two models would not fit in memory; empty if they would."""
    size = sum(
        value.const_value.nbytes
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    )
    name, elements = _largest_tensor(model)
    if elements > _HUGE:
        return f"'{name}' has {elements:,} elements; --check 1 runs both models anyway"
    free = _free_memory()
    if size <= _LARGE or free is None or size * _COPIES <= free:
        return ""
    return (
        f"{size / 2**30:.1f} GiB of weights in {free / 2**30:.1f} GiB of memory; --check 1 runs "
        "both models anyway"
    )


def _largest_tensor(model: ir.Model) -> tuple[str, int]:
    """Find the largest computed tensor of known extents; a symbolic batch counts as one."""
    facts, found = Facts(model, one_sample=True), ("", 0)
    for value in (out for graph in model.graphs() for node in graph for out in node.outputs):
        shape = facts.shape(value)
        if shape is not None:
            size = math.prod(1 if extent is None else extent for extent in shape)
            found = max(found, (value.name or "", size), key=lambda pair: pair[1])
    return found


def _free_memory() -> int | None:
    """Return the available memory in bytes; None if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvail"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
