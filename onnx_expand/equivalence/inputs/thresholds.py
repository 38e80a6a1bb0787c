"""Thresholds that only one of two models has, and inputs that pass them.

`Clip(0, 1e5)` computes what `Relu` does until a value exceeds 1e5. The drawn inputs are scaled up
until the values that a threshold of only one model bounds lie on both of its sides. A threshold
that no input passes is noted: no test covers what lies behind it. The models come with their local
functions inlined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.equivalence.parts.cutting import exposed
from onnx_expand.errors import UnsupportedError
from onnx_expand.graph.attributes import float_of
from onnx_expand.graph.editing import label
from onnx_expand.graph.facts import Facts
from onnx_expand.runtimes.base import Session, Tensors
from onnx_expand.runtimes.named import named_runtime

__all__ = ["Threshold", "crossing", "narrowing", "thresholds"]

Span: TypeAlias = tuple[float, float]

_FEW = 64  # elements; a larger constant is not taken as a threshold
_MOST = 32  # thresholds that are followed
_VISIBLY = 0.01  # times the threshold, so that no rounding explains the difference
_BEYOND = 4.0  # times the threshold, so that many values pass it
_AT_ZERO = frozenset({"Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Abs", "Sign"})
_WITH_CONSTANT = frozenset(
    {"Min", "Max", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Clip"}
)
_TYPES = frozenset({ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE})
_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class Threshold:
    """A value at which a node bends or jumps."""

    value: float
    tensor: str
    node: str
    letter: str

    def note(self) -> str:
        """Say that no input passes it."""
        return (
            f"no input takes '{self.tensor}' in {self.letter} past {self.value:g}, where "
            f"{self.node} bends and nothing in the other model does: the verdict does not cover "
            "what lies behind it"
        )


def thresholds(a: ir.Model, b: ir.Model) -> tuple[Threshold, ...]:
    """Return the thresholds in the main graphs that only one of two models has."""
    left, right = (list(_thresholds(m, letter)) for m, letter in ((a, "A"), (b, "B")))
    found: list[Threshold] = []
    for own, others in ((left, right), (right, left)):
        count = Counter(np.float32(t.value) for t in others)
        for threshold in own:
            if count[np.float32(threshold.value)] > 0:
                count[np.float32(threshold.value)] -= 1
            else:
                found.append(threshold)
    return tuple(found[:_MOST])


def _thresholds(model: ir.Model, letter: str) -> Iterator[Threshold]:
    facts = Facts(model)
    for node in model.graph:
        read = node.inputs[0] if node.inputs and not node.domain else None
        if node.op_type in _WITH_CONSTANT and facts.is_constant(read):
            read = next((v for v in node.inputs if v and not facts.is_constant(v)), None)
        dtype = None if read is None else facts.dtype(read)
        if read is None or dtype not in _TYPES or facts.is_constant(read):
            continue
        most = float(np.finfo(dtype.numpy()).max) / 2  # the largest number bounds nothing
        where = f"{node.op_type} '{label(node)}'"
        for value in dict.fromkeys(_values(node, facts)):
            if abs(value) < most:
                yield Threshold(value, read.name or "", where, letter)


def _values(node: ir.Node, facts: Facts) -> Iterator[float]:
    if node.op_type in _AT_ZERO:
        yield 0.0
    elif node.op_type in {"ThresholdedRelu", "Shrink"}:
        name = "alpha" if node.op_type == "ThresholdedRelu" else "lambd"
        yield float_of(node, name, facts.opset)
    elif node.op_type == "Clip" and facts.opset < 11:
        yield from (float_of(node, name, facts.opset, np.inf) for name in ("min", "max"))
    elif node.op_type in _WITH_CONSTANT:
        for value in node.inputs:
            if value is not None and facts.is_constant(value):
                tensor = facts.tensor(value)
                if tensor.size <= _FEW:
                    yield from map(float, facts.array(value).reshape(-1))


def crossing(
    a: ir.Model,
    b: ir.Model,
    providers: tuple[str, str],
    inputs: Sequence[tuple[str, Tensors]],
    scalable: bool,
) -> tuple[list[tuple[str, Tensors]], list[str]]:
    """Return further inputs that pass thresholds, and notes on those that none passes.

    Args:
        a: The reference model.
        b: The model to compare.
        providers: The providers of A and B.
        inputs: The drawn inputs with their names; the first one is scaled.
        scalable: Whether inputs may be scaled.
    """
    found: list[tuple[str, Tensors]] = []
    notes: list[str] = []
    open_ = thresholds(a, b)
    if not open_:
        return found, notes
    watches = {
        letter: _Watch(model, provider, [t.tensor for t in open_ if t.letter == letter])
        for letter, model, provider in zip("AB", (a, b), providers, strict=True)
    }
    for _, feeds in inputs[:1]:
        for watch in watches.values():
            watch.see(feeds)
    first = {letter: dict(watch.spans) for letter, watch in watches.items()}
    for _, feeds in inputs[1:]:
        for watch in watches.values():
            watch.see(feeds)
    for threshold in open_:
        watch = watches[threshold.letter]
        if threshold.tensor not in watch.spans or watch.is_passed(threshold):
            continue
        span = first[threshold.letter].get(threshold.tensor, (0.0, 0.0))
        for scale in _scales(threshold.value, span) if scalable else ():
            feeds = _scaled(inputs[0][1], scale)
            seen = [own.spans_on(feeds, finite=True) for own in watches.values()]
            spans = seen["AB".index(threshold.letter)]
            if None in seen or not watch.is_passed(threshold, spans):
                continue
            found.append((f"{inputs[0][0]}, scaled by {scale:.2g}", feeds))
            for own in watches.values():
                own.see(feeds)
            break
        else:
            notes.append(threshold.note())
    return found, notes


def _scaled(feeds: Tensors, scale: float) -> Tensors:
    return {
        name: np.asarray(array * array.dtype.type(scale)) if array.dtype.kind == "f" else array
        for name, array in feeds.items()
    }


class _Watch:
    """The ranges that inner tensors of a model take."""

    def __init__(self, model: ir.Model, provider: str, names: Sequence[str]) -> None:
        self.spans: dict[str, Span] = {}
        self._names = names
        self._session: Session | None = None
        if not names:
            return
        facts = Facts(model)
        made = [out for node in model.graph for out in node.outputs if out.name in names]
        types = {out.name or "": dtype for out in made if (dtype := facts.dtype(out)) is not None}
        try:
            shown = exposed(model, types)
            self._session = named_runtime(provider).session(shown, "the inner tensors")
        except UnsupportedError:
            return

    def see(self, feeds: Tensors) -> None:
        """Run the model and widen the ranges."""
        for name, span in (self.spans_on(feeds) or {}).items():
            self.spans[name] = _widened(self.spans.get(name), span)

    def spans_on(self, feeds: Tensors, finite: bool = False) -> dict[str, Span] | None:
        """Return the ranges on one input, or None if the model does not run, or not finitely."""
        if self._session is None:
            return None if self._names else {}
        try:
            results = self._session.run(feeds)
        except UnsupportedError:
            return None
        if finite and not all(map(_is_finite, results.values())):
            return None
        found = {}
        for name in self._names:
            array = results.get(name, feeds.get(name))
            if array is not None and np.isfinite(array).any():
                own = array[np.isfinite(array)].astype(float)
                found[name] = float(own.min()), float(own.max())
        return found

    def is_passed(self, threshold: Threshold, also: Mapping[str, Span] | None = None) -> bool:
        """Return whether values lay well on both sides of a threshold, with further ranges."""
        name = threshold.tensor
        low, high = _widened((also or {}).get(name), self.spans[name])
        margin = _VISIBLY * abs(threshold.value)
        return low < threshold.value - margin and threshold.value + margin < high


def _widened(one: Span | None, other: Span) -> Span:
    return other if one is None else (min(one[0], other[0]), max(one[1], other[1]))


def _scales(value: float, span: Span) -> Iterator[float]:
    """Yield factors of the inputs that may take values of this range past a threshold."""
    for end in sorted(span, key=abs, reverse=True):
        if end and value:
            ratio = abs(value / end)
            sign = 1 if (value > 0) == (end > 0) else -1
            yield from (sign * _BEYOND * ratio, sign * _BEYOND * ratio**0.5)


def _is_finite(array: npt.NDArray[np.generic]) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def narrowing(a: ir.Model, b: ir.Model) -> list[str]:
    """Note the casts to narrower types that only B has; runtimes may leave them out."""
    before, after = (_narrowed(model) for model in (a, b))
    return [
        f"B has more casts to {kind.name.lower()} than A ({len(nodes)} and "
        f"{len(before.get(kind, ()))}), such as '{nodes[-1]}': if the runtime leaves out one that "
        "is cast back, the verdict does not cover its rounding"
        for kind, nodes in after.items()
        if len(nodes) > len(before.get(kind, ()))
    ]


def _narrowed(model: ir.Model) -> Mapping[ir.DataType, list[str]]:
    found: dict[ir.DataType, list[str]] = {}
    for node in model.graph.all_nodes():
        to = node.attributes.get("to") if node.op_type == "Cast" and not node.domain else None
        if to is not None and not to.is_ref() and ir.DataType(to.as_int()) in _NARROW:
            found.setdefault(ir.DataType(to.as_int()), []).append(label(node))
    return found
