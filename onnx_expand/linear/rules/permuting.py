"""The rule of permutations: move permutations of channels past ops that treat all alike.

A channel shuffle, a Gather of all channels, or parts concatenated in another order, can be merged
into the weight of an adjacent layer that mixes channels. Activations, normalizations and depthwise
layers in between can process the channels in the original order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.graph.ops import Trait, ops_with
from onnx_expand.lift.base import LARGEST
from onnx_expand.linear.chains.partition import Partition
from onnx_expand.linear.chains.runs import runs_of
from onnx_expand.linear.chains.steps import Span, Step, step_of
from onnx_expand.linear.driver import Swap, Terms
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.rules.moves import Move, copy_of, merged_move
from onnx_expand.linear.terms.base import Concat, Homogeneous, Map, SplitInput, Term, View
from onnx_expand.lower import form_of

__all__ = ["permute"]

_ALIKE = ops_with(Trait.ELEMENTWISE | Trait.KEEPS_RANK) - {"PRelu"} | {
    *("Abs", "MaxPool", "AveragePool", "LpPool", "Resize", "Upsample"),
    *("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"),
}
"""Ops that treat all channels alike."""
_MOVES = {"Gather", "Slice"}
_FAR = 16  # terms between a permutation and the layer that absorbs it

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Order:
    """Channels in another order: channel i of a term is channel `places[i]` of its root.

    Attributes:
        step: The permutation as a step.
        root: The term that it reads.
        axis: The axis of the channels.
        places: The source of each channel.
        affine: The permutation as an affine map.
    """

    step: Step
    root: Term
    axis: int
    places: Places
    affine: AffineConv

    def map_of(self, arg: Term, place: Term) -> Map:
        """Return the permutation of another term, in the place of a term."""
        dtype = self.step.top.tensor.dtype
        found = Map.made(arg, self.affine, self.axis, place, dtype)
        return replace(found, origins=self.step.origins)


def permute(terms: Terms, term: Term) -> Swap | None:
    """Move a permutation to a layer that absorbs it: f(P x) = P f(x) if f treats channels alike.

    Applied if the layer costs no more than before, so that the permutation is saved.
    """
    if terms.policy is Policy.MARKED:
        return None
    order = _order(terms, term)
    if order is None:
        return None
    refusals: list[Refusal] = []
    for find in (_behind, _before):
        for path, move in find(terms, term, order):
            try:
                swap = _swap(terms, order, path, move, behind=find is _behind)
            except RefusedError as error:
                refusals.append(error.refusal)
                continue
            terms.scaled.update(path)
            terms.scaled.update(layer for layer, _ in move.swap if find is _before)
            return swap
    if refusals and isinstance(term, Map):
        terms.stuck[term] = refusals[0]
    return None


def _order(terms: Terms, term: Term) -> _Order | None:
    """Return the permutation that ends at a term; None if there is none."""
    node = term.node
    moves = isinstance(term, Map) and node is not None and node.op_type in _MOVES
    if not moves and not isinstance(term, View | Concat):
        return None
    step = terms.last_step(term)
    if step is None or step.view is not None or step.top is not term or step.axes is None:
        return None
    geometry, root = step.geometry, _root(step)
    if not isinstance(geometry, Geometry) or root is None or not geometry.is_pointwise:
        return None
    count, rank = geometry.out_channels, term.tensor.rank
    if geometry.in_channels != count or count * count > LARGEST or geometry.bias or rank is None:
        return None
    if step.axes[0] % rank != step.axes[1] % rank or geometry.is_per_channel:
        return None
    try:
        affine = step.load()
    except RefusedError:
        return None
    matrix = affine.embedded(replace(affine.geometry, group=1)).weight.reshape(count, count)
    places = np.argmax(matrix, axis=1)
    if not np.array_equal(matrix, np.eye(count)[places]) or len(set(places.tolist())) < count:
        return None
    plain = AffineConv(np.eye(count)[places]).finest()
    return _Order(step, root, step.axes[0] % rank, places, plain)


def _root(step: Step) -> Term | None:
    """Return the one term outside of a step that it reads."""
    inside = set(step.terms)
    read = {_uncut(arg) for t in step.terms for arg in t.args} - inside
    return next(iter(read)) if len(read) == 1 else None


def _uncut(term: Term) -> Term:
    """Return the term that a node splits."""
    return term.args[0] if isinstance(term, SplitInput) else term


# -- Past ops that treat channels alike --------------------------------------------------------


def _passes(term: Term, axis: int) -> bool:
    """Return whether a term maps each channel of an axis separately."""
    if isinstance(term, Homogeneous):
        known = term.scaling.channels.get(term.slots[0], {}) if len(term.slots) == 1 else {}
        return term.like.op_type in _ALIKE and known.get(axis) == axis
    if not isinstance(term, Map) or term.unit or term.is_part:
        return False
    geometry, rank = term.geometry, term.tensor.rank
    if term.axes is None:
        return True
    if rank is None or any(a % rank != axis for a in term.axes):
        return False
    return geometry.group == geometry.in_channels == geometry.out_channels


def _permuted(terms: Terms, term: Term, places: Places) -> Term | None:
    """Return a term with its channels permuted; None if it treats all channels alike.

    Channel i of the result is channel `places[i]` of the term.

    Raises:
        RefusedError: No single node computes it.
    """
    if not isinstance(term, Map) or term.axes is None:
        return None
    own, load = term.load(), term.load
    bias = own.bias
    alike = np.array_equal(own.weight[places], own.weight)
    if alike and (bias is None or np.array_equal(bias[places], bias)):
        return None

    def permuted() -> AffineConv:
        affine = load()
        shift = None if affine.bias is None else affine.bias[places]
        return replace(affine, weight=affine.weight[places], bias=shift)

    writable = terms.facts.writable(term.tensor.dtype)
    scales = not term.shift_only
    form = form_of(term.geometry, term.axes, term.tensor.rank, writable, scales=scales)
    if isinstance(form, Refusal):
        raise RefusedError(form)
    new = replace(term, node=None, value=None, like=None, load=permuted, form=form, own=None)
    return replace(new, before=term.source_cost)


def _swap(terms: Terms, order: _Order, path: Sequence[Term], move: Move, *, behind: bool) -> Swap:
    """Return the replacements of all terms of a move.

    Raises:
        RefusedError: It would save nothing, or a term cannot be written.
    """
    places = np.argsort(order.places) if behind else order.places
    news = {t: _permuted(terms, t, places) for t in path}
    before = sum((t.price() for t in path), order.step.price() + move.before)
    after = sum((t.price() if new is None else new.price() for t, new in news.items()), move.after)
    policy = terms.policy
    if policy.key(after.cost) >= policy.key(before.cost) or not after.never_more(before):
        raise RefusedError(Refusal(Reason.COST, "a layer with this order of channels costs more"))
    swap: Swap = {t: new for t, new in news.items() if new is not None}
    swap |= {layer: build() for layer, build in move.swap}
    if behind:
        swap[order.step.top] = order.root
    else:
        # It computes the value of the permutation and gets its name.
        new = swap.pop(order.root) if order.root in swap else None
        swap[order.step.top] = new or copy_of(order.root, order.root.args)
    return swap


# -- Layers that absorb it ---------------------------------------------------------------------


def _behind(terms: Terms, term: Term, order: _Order) -> Iterator[tuple[list[Term], Move]]:
    """Yield the layers after a permutation that may absorb it, with the terms in between."""
    path: list[Term] = []
    below = term
    while len(path) < _FAR and terms.is_inner(below):
        above = terms.user(below)
        terms.watch(above, term)
        if path and isinstance(above, Map) and not above.unit:
            steps = step_of(order.map_of(below, above)), step_of(above)
            move = _taken_in(terms, below, steps, above, own=1)
            if move is not None:
                yield list(path), move
        if not _passes(above, order.axis):
            return
        path.append(above)
        below = above


def _before(terms: Terms, term: Term, order: _Order) -> Iterator[tuple[list[Term], Move]]:
    """Yield the layers before a permutation that may absorb it, with the terms in between."""
    path: list[Term] = []
    below = order.root
    readers = {
        arg if isinstance(arg, SplitInput) else t for t in order.step.terms for arg in t.args
    }
    edges = sum(t.args.count(below) for t in readers)
    cut = [t for t in readers if isinstance(t, SplitInput)]
    if any(not terms.users[split].keys() <= set(order.step.terms) for split in cut):
        return
    while len(path) < _FAR and below not in terms.roots and terms.count(below) == edges:
        terms.watch(below, term)
        if path and isinstance(below, Map) and not below.unit and not below.is_part:
            steps = step_of(below), step_of(order.map_of(below, below))
            move = _taken_in(terms, below.args[0], steps, below, own=0)
            if move is not None:
                yield list(path), move
        if not _passes(below, order.axis):
            return
        path.append(below)
        below, edges = below.args[0], 1


def _taken_in(
    terms: Terms, root: Term, steps: Sequence[Step | None], layer: Term, own: int
) -> Move | None:
    """Merge a layer and a permutation to one layer."""
    run = runs_of([step for step in steps if step is not None])[0]
    if len(run) < len(steps):
        return None
    part = Partition(root, run, terms.policy, terms.facts, may_shift=False)
    return merged_move(part, Span(0, 1), Span(own, own), layer)
