"""The metadata that expand writes and fold reads: which nodes replaced which one.

Each node of an expanded unit has metadata under one key: the unit's identity, the node's index in
it and the template of the node that the unit replaced. Fold uses them for names and layout only;
whether the unit can be contracted depends on its nodes alone.

Activations that expand inserted between the layers of a unit have a separate key, so that they
can be identified and removed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.documents import parse_json
from onnx_expand.errors import Reason, Refusal
from onnx_expand.graph.editing import ACTIVATION_KEY, UNIT_KEY
from onnx_expand.lower.templates import Template

__all__ = [
    "Member",
    "activations",
    "drop_incomplete",
    "drop_note",
    "has_note",
    "is_given_back",
    "mark",
    "mark_activation",
    "nonlinear_units",
    "note_expanded",
    "note_folded",
    "unit_member",
    "unmark",
]

_INSERTED = frozenset({"Relu", "PRelu"})

_NOTE = "onnx_expand.expanded"
_OPEN = "true"


@dataclass(frozen=True)
class Member:
    """A node's membership in an expanded unit.

    Attributes:
        unit: The identity of the unit within the model.
        index: The node's index in the unit, from 0.
        size: The number of nodes of the unit.
        origin: The template of the node that the unit replaced, as JSON.
    """

    unit: str
    index: int
    size: int
    origin: str

    def template(self) -> Template | None:
        """Return the template of the replaced node; None if the record is damaged."""
        try:
            return Template.from_json(parse_json(self.origin))
        except ValueError:
            return None


def mark(nodes: Sequence[ir.Node], unit: str, origin: Template) -> None:
    """Record in the metadata of nodes, in order, that they replace the node of a template."""
    for index, node in enumerate(nodes):
        record = {"unit": unit, "index": index, "size": len(nodes), "origin": origin.to_json()}
        node.metadata_props[UNIT_KEY] = json.dumps(record, separators=(",", ":"))


def unit_member(node: ir.Node) -> Member | None:
    """Return a node's membership in an expanded unit, None if it has none."""
    text = node.metadata_props.get(UNIT_KEY)
    if text is None:
        return None
    try:
        record = parse_json(text)
        return Member(
            str(record["unit"]),
            int(record["index"]),
            int(record["size"]),
            json.dumps(record["origin"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def unmark(node: ir.Node) -> None:
    """Remove the record that a node belongs to a unit."""
    node.metadata_props.pop(UNIT_KEY, None)


def drop_incomplete(model: ir.Model) -> bool:
    """Remove the records of incomplete or contradictory units; return whether others remain."""
    members: dict[tuple[ir.Graph, str], list[tuple[ir.Node, Member]]] = {}
    for graph in model.graphs():
        for node in graph:
            member = unit_member(node)
            if member is not None:
                members.setdefault((graph, member.unit), []).append((node, member))
    complete = False
    for found in members.values():
        places = sorted(member.index for _, member in found)
        alike = len({(member.size, member.origin) for _, member in found}) == 1
        if alike and places == list(range(found[0][1].size)):
            complete = True
        else:
            for node, _ in found:
                unmark(node)
    return complete


def note_expanded(model: ir.Model) -> None:
    """Record that a model has expanded units."""
    model.metadata_props[_NOTE] = _OPEN


def note_folded(model: ir.Model) -> None:
    """Record that a model has the nodes it had before expand."""
    model.metadata_props[_NOTE] = _outline(model)


def has_note(model: ir.Model) -> bool:
    """Return whether a model was expanded, even if it has changed since."""
    return _NOTE in model.metadata_props


def drop_note(model: ir.Model) -> None:
    """Remove the record that a model was expanded."""
    model.metadata_props.pop(_NOTE, None)


def is_given_back(model: ir.Model) -> bool:
    """Return whether fold restored the nodes from before expand, and none has changed since."""
    note = model.metadata_props.get(_NOTE)
    return note is not None and note == _outline(model)


def _outline(model: ir.Model) -> str:
    """Return a digest of the ops, names and connections of a model's nodes, without weights."""
    digest = hashlib.sha256()
    for graph in model.graphs():
        for node in graph:
            names = [[v.name if v is not None else None for v in node.inputs]]
            names.append([v.name for v in node.outputs])
            digest.update(json.dumps([node.domain, node.op_type, node.name, names]).encode())
    return digest.hexdigest()[:16]


def mark_activation(node: ir.Node, unit: str) -> None:
    """Record in a node's metadata that expand inserted it between the layers of a unit."""
    node.metadata_props[ACTIVATION_KEY] = unit


def activations(model: ir.Model) -> list[tuple[ir.Node, str]]:
    """Return the activations that expand inserted between layers, each with its unit."""
    return [
        (node, node.metadata_props[ACTIVATION_KEY])
        for graph in model.graphs()
        for node in graph
        if ACTIVATION_KEY in node.metadata_props and node.op_type in _INSERTED and not node.domain
    ]


def nonlinear_units(model: ir.Model) -> list[tuple[list[ir.Node], Refusal]]:
    """Return the units with activations between their layers, and the refusal of each."""
    units: dict[str, list[ir.Node]] = {}
    for node, unit in activations(model):
        units.setdefault(unit, []).append(node)
    return [
        (
            nodes,
            Refusal(
                Reason.ACTIVATION,
                f"the layers that replaced one have {len(nodes)} activations between them",
                {"activations": len(nodes)},
                "remove them with expand --strip-nonlinear",
            ),
        )
        for nodes in units.values()
    ]
