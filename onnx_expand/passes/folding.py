"""Fold the graphs of one model: lift them into terms, rewrite by rules, write once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from onnx_expand.cost import Cost
from onnx_expand.errors import Refusal
from onnx_expand.graph.editing import Rewritten, label
from onnx_expand.graph.shapes import Dim, Inference
from onnx_expand.layout import straighten_layouts
from onnx_expand.linear.driver import Terms, rewrite
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.reasons import breaks
from onnx_expand.linear.rules import composing as rules
from onnx_expand.linear.rules.adding import add
from onnx_expand.linear.rules.borders import Bridge, bridge_borders
from onnx_expand.linear.rules.bridges import Border
from onnx_expand.linear.rules.carry import carry
from onnx_expand.linear.rules.duplicating import duplicate
from onnx_expand.linear.rules.matrix_bias import fuse_matrix_bias
from onnx_expand.linear.rules.permuting import permute
from onnx_expand.linear.rules.pools import pad_average
from onnx_expand.linear.rules.reassociating import reassociate
from onnx_expand.linear.rules.repeats import join_once
from onnx_expand.linear.rules.transposes import fuse_transpose
from onnx_expand.linear.terms.base import Map, Term
from onnx_expand.linear.writing.copies import Copy
from onnx_expand.linear.writing.placing import Writer
from onnx_expand.passes.clean import Cleaner
from onnx_expand.passes.extents import state_extents
from onnx_expand.passes.raising import raise_composites
from onnx_expand.passes.reasons import is_linear_kind, refined, unexplained
from onnx_expand.passes.report import Kept, Site
from onnx_expand.passes.rows import as_rows
from onnx_expand.passes.weights import freeze_weights
from onnx_expand.passes.widths import Width, resize
from onnx_expand.progress import counted

__all__ = ["FoldRun"]

# Rows of views are joined first: to partition them takes the product of their lengths.
_RULES = (
    rules.straighten,
    rules.compose,
    rules.drop,
    pad_average,
    duplicate,
    carry,
    permute,
    add,
    join_once,
    fuse_matrix_bias,
    reassociate,
    fuse_transpose,
)
_TIDYING = frozenset({rules.drop, rules.straighten})

_USUAL = 224  # assumed extent of the spatial axes of an image
_ROUNDS = 4


class FoldRun:
    """One fold of one model."""

    def __init__(
        self,
        model: ir.Model,
        policy: Policy,
        border: Border,
        image: str | None,
        cleaner: Cleaner,
    ) -> None:
        self.cleaner, self.facts = cleaner, cleaner.facts
        self._model = model
        self._usually: Mapping[ir.Value, tuple[Dim, ...]] | None = None
        self.policy = policy
        self.border = border
        self.image = image
        self.rewriter = cleaner.rewriter
        self.sites: list[Site] = []
        self.kept: list[Kept] = []
        self.copies: list[Copy] = []
        self.locked: frozenset[str] = frozenset()
        self.states = False  # whether computed extents were stored

    def fold_graphs(self, width: Width | None, *, cleans: bool) -> None:
        """Fold all graphs of the model, and again where cleaning may allow more folding.

        Args:
            width: How to write products of one input, if measurements decided it.
            cleans: Whether to clean the folded graphs.
        """
        for round_ in range(_ROUNDS):
            self.kept.clear()
            graphs = list(self._model.graphs())
            readers = sum(map(_shape_readers, graphs))
            for graph in counted(f"folding, round {round_ + 1}", graphs):
                self.fold_graph(graph)
                if width is not None:
                    self.resize(graph, width)
            # What a Shape that is gone read has fewer readers.
            freed = sum(map(_shape_readers, graphs)) < readers
            graphs = list(self._model.graphs()) if cleans else []
            cleaned = [self.clean(graph) for graph in graphs]
            if not any(cleaned) and not freed:
                break
        if self.policy is not Policy.MARKED:
            for graph in list(self._model.graphs()):
                self._lay_rows(graph)

    def _lay_rows(self, graph: ir.Graph) -> None:
        """Write products of tokens as products of rows."""
        for rowed in as_rows(graph, self.facts, self.rewriter, self.locked):
            self._note([rowed])
            self.kept = [rowed.renamed(kept) for kept in self.kept]

    def fold_graph(self, graph: ir.Graph) -> None:
        """Fold one graph, without the subgraphs of its nodes."""
        marked = self.policy is Policy.MARKED
        if not marked:
            for gone, name in state_extents(graph, self.facts, self.rewriter, self.locked):
                self.sites.append(Site(gone, (name,), Cost(0, 0, len(gone)), Cost()))
                self.states = True
            self._raise(graph)
            self._straighten(graph)
        said = len(self.kept)
        for _ in range(_ROUNDS):
            del self.kept[said:]
            bridged = self._rewrite(graph)
            # Nodes that became maps of single channels may work in either order of axes.
            turned = not marked and self._straighten(graph)
            if not bridged and not turned:
                break
        if not marked:
            for frozen in freeze_weights(graph, self.facts, self.rewriter, self.locked):
                now, before = frozen.parameters
                costs = Cost(0, before, len(frozen.nodes)), Cost(0, now, 0)
                self.sites.append(Site(frozen.nodes, (frozen.name,), *costs))

    def _rewrite(self, graph: ir.Graph) -> bool:
        """Lift a graph into terms, rewrite them and write the result.

        Returns:
            Whether borders were bridged, by nodes that may merge with others.
        """
        terms = Terms(graph, self.facts, self.policy, locked=self.locked)
        rewrite(terms, _RULES, _TIDYING)
        # Terms that nothing reads no longer keep others apart.
        while terms.redirect_shape_readers():
            rewrite(terms, _RULES, _TIDYING)
        refused: list[tuple[tuple[Term, ...], Refusal]] = []
        bridges = self.border is not Border.EXACT or self.image is not None
        if self.policy is not Policy.MARKED and bridges:
            refused = bridge_borders(terms, self.border, self.image)
        bridged = any(isinstance(term, Bridge) for term in terms.live())
        self._write(terms, refused)
        return bridged

    def _raise(self, graph: ir.Graph) -> None:
        """Write composite patterns as runtimes compute them."""
        respell = self.policy is not Policy.ALWAYS  # the policy `always` merges inside patterns
        self._note(
            raise_composites(graph, self.facts, self.rewriter, locked=self.locked, respell=respell)
        )

    def _straighten(self, graph: ir.Graph) -> bool:
        """Change the axis order of nodes to save transposes; return whether any changed."""
        found = False
        self._usually = None
        usual, locked = self._usual, self.locked
        for turned in straighten_layouts(graph, self.facts, self.rewriter, usual, locked):
            self._note([turned])
            found, self._usually = True, None
        return found

    def _note(self, found: Iterable[Rewritten]) -> None:
        """Report nodes that were written in another form."""
        for part in found:
            costs = Cost(0, 0, len(part.old)), Cost(0, 0, len(part.new))
            self.sites.append(Site(part.old, part.new, *costs))

    def _usual(self, value: ir.Value) -> tuple[int, ...] | None:
        """Return the extents of a value at usual input extents, with 0 for unknown ones."""
        if self._usually is None:
            inference = Inference(self._model, one_sample=True, usual=_USUAL)
            inference.run()
            self._usually = inference.dims
        dims = self._usually.get(value)
        return None if dims is None else tuple(d if isinstance(d, int) else 0 for d in dims)

    def resize(self, graph: ir.Graph, width: Width) -> None:
        """Write products of one input as one wider product, or the reverse."""
        self._note(resize(graph, self.facts, self.rewriter, width, self.locked))

    def clean(self, graph: ir.Graph) -> bool:
        """Clean a folded graph, its maps included; return whether it changed."""
        done = self.cleaner.clean(graph)
        gone = {*done.constants, *done.duplicates, *done.joined, *done.idle, *done.unread}
        if gone:
            self.kept = [kept for kept in self.kept if gone.isdisjoint(kept.nodes)]
        return bool(done)

    def explain(self, graph: ir.Graph) -> None:
        """Find a reason for each linear node of a folded graph that has none yet."""
        named = {name for kept in self.kept for name in kept.nodes}
        self.kept += unexplained(graph, self.facts, named, self.policy)

    def _write(self, terms: Terms, refused: Iterable[tuple[tuple[Term, ...], Refusal]]) -> None:
        """Write the changed terms; report them and those that were kept."""
        reasons = list(breaks(terms))
        dropped = [
            (tuple(map(label, t.origins)), t.before if isinstance(t, Map) else None)
            for t in terms.dropped
        ]
        writer = Writer(terms, self.rewriter)
        writer.write()
        self.copies += writer.copies
        self.sites += [Site(w.old, w.new, w.before, w.after, w.border) for w in writer.written]
        named = {name for site in self.sites for name in site.nodes}
        for names, before in dropped:
            if not named.issuperset(names):
                self.sites.append(Site(names, (), before or Cost(0, 0, 1), Cost()))
        for composite in () if terms.composites is None else reversed(terms.composites.found):
            linear = [n for n in composite.nodes[::-1] if is_linear_kind(n, self.facts)]
            if linear:
                self.kept.append(Kept.of(linear, composite.refusal))
        for node, refusal in terms.refused:
            self.kept.append(Kept.of([node], refined(node, refusal, self.facts)))
        for b in reasons:
            value = None if b.value is None else writer.value_of(b.value)
            between = "" if value is None else value.name or ""
            self.kept.append(Kept(_labels(writer, b.terms), b.refusal, between))
        for old, refusal in refused:
            kept = Kept(_labels(writer, old), refusal)
            self.kept += [] if kept in self.kept else [kept]


def _labels(writer: Writer, terms: Iterable[Term]) -> tuple[str, ...]:
    """Return the labels of the nodes that compute some terms."""
    values = (writer.value_of(term) for term in terms)
    nodes = (value.producer() for value in values if value is not None)
    return tuple(dict.fromkeys(label(node) for node in nodes if node is not None))


def _shape_readers(graph: ir.Graph) -> int:
    """Count the nodes of a graph that read shapes."""
    return sum(node.op_type in {"Shape", "Size"} for node in graph)
