"""Correct what ONNX's shape inference says of Einsums that broadcast.

An Einsum broadcasts an extent of 1 against another one (in torch and onnxruntime), but inference
takes the extent of each letter from the first operand that has it. The operands are reordered for
inference so that this is the right one, or the node is hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from onnx_expand.graph.guards import HIDDEN

__all__ = ["spell_einsums"]

_Extents = Sequence[int | None]


def spell_einsums(model: onnx.ModelProto, inferred: onnx.ModelProto) -> bool:
    """Reorder or hide the Einsums of a model whose results inference gets wrong.

    Args:
        model: The model that inference is run on. Its functions are not looked at.
        inferred: The same model after inference.

    Returns:
        Whether any node changed.
    """
    changed = [
        node
        for graph, described in _pairs(model.graph, inferred.graph)
        for node in _spelled(graph, described)
    ]
    is_known = any(opset.domain == HIDDEN for opset in model.opset_import)
    if not is_known and any(node.domain for node in changed):
        model.opset_import.add(domain=HIDDEN, version=1)
    return bool(changed)


def _pairs(
    graph: onnx.GraphProto, described: onnx.GraphProto
) -> Iterator[tuple[onnx.GraphProto, onnx.GraphProto]]:
    """Yield a graph before and after inference, then those of its subgraphs."""
    yield graph, described
    for node, same in zip(graph.node, described.node, strict=True):
        for one, other in zip(node.attribute, same.attribute, strict=True):
            if one.HasField("g"):
                yield from _pairs(one.g, other.g)


def _spelled(graph: onnx.GraphProto, described: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the Einsums of a graph that were changed."""
    nodes = [node for node in graph.node if node.op_type == "Einsum" and not node.domain]
    if not nodes:
        return  # most graphs; this runs after each inference
    wanted = {name for node in nodes for name in node.input}
    known: dict[str, _Extents] = {t.name: t.dims for t in graph.initializer if t.name in wanted}
    for info in (*described.input, *described.value_info, *described.output):
        kind = info.type.tensor_type
        if info.name in wanted and kind.HasField("shape"):
            dims = kind.shape.dim
            known[info.name] = [d.dim_value if d.HasField("dim_value") else None for d in dims]
    yield from (node for node in nodes if _spell(node, [known.get(n) for n in node.input]))


def _spell(node: onnx.NodeProto, known: Sequence[_Extents | None]) -> bool:
    """Reorder the operands of an Einsum, or hide it; return whether that was necessary."""
    equation = next((a for a in node.attribute if a.name == "equation"), None)
    text = "" if equation is None else equation.s.decode(errors="replace").replace(" ", "")
    left, arrow, after = text.partition("->")
    terms = left.split(",")
    if equation is None or not arrow or len(terms) != len(known):
        return False
    extents = [_by_letter(term, own) for term, own in zip(terms, known, strict=True)]
    right = {letter: _broadcast(letter, extents) for own in extents for letter in own}
    wrong = [sum(right[letter] != size for letter, size in own.items()) for own in extents]
    if not any(wrong):
        return False
    order = sorted(range(len(terms)), key=wrong.__getitem__)
    first: dict[str, int | None] = {}
    for i in order:
        first = extents[i] | first
    if first != right:
        node.domain = HIDDEN
        return True
    equation.s = f"{','.join(terms[i] for i in order)}->{after}".encode()
    node.input[:] = [node.input[i] for i in order]
    return order != sorted(order)


def _by_letter(term: str, extents: _Extents | None) -> dict[str, int | None]:
    """Return the extent of each letter of a term, None for one that is not known."""
    before, _, behind = term.partition("...")
    if extents is None or len(extents) < len(before) + len(behind):
        return dict.fromkeys(before + behind)
    ends = extents[len(extents) - len(behind) :]
    return dict(zip(before + behind, [*extents[: len(before)], *ends], strict=True))


def _broadcast(letter: str, operands: Sequence[dict[str, int | None]]) -> int | None:
    """Return the extent of a letter in the result."""
    sizes = [own[letter] for own in operands if letter in own]
    large = [size for size in sizes if size not in {None, 1}]
    return large[0] if large else None if None in sizes else 1
