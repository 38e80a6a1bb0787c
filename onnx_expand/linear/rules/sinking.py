"""Sink diagonal maps towards the outputs: into their consumers, or past them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnx_expand.errors import Reason
from onnx_expand.linear.chains.runs import runs_of
from onnx_expand.linear.chains.steps import Span, step_of
from onnx_expand.linear.rules.diagonal import Diagonal, commuted, through_op
from onnx_expand.linear.rules.hoisting import Hoisting
from onnx_expand.linear.rules.moves import Move, Search, copy_of, op_name
from onnx_expand.linear.terms.base import Concat, Homogeneous, Map, Price, Sum, Term, View

__all__ = ["Sinking"]

_SEVERAL = 2
_NEAR = 4  # steps after a map that may merge with it


class Sinking(Search):
    """Searches for where one map can move towards the outputs."""

    def move(self, diagonal: Diagonal) -> Move | None:
        """Return the best move of the map past its consumers."""
        return self.best([self._along(diagonal), self._in_all(diagonal)])

    def _in_all(self, diagonal: Diagonal) -> Move | None:
        """Return the move that merges the scale into all consumers and adds the shift before them.

        `s x + t = s (x + t / s)`: only the scale maps the zeros of a border to zeros.
        """
        source, readers = self.source, self.terms.users[self.source]
        if source in self.terms.roots or len(readers) < _SEVERAL:
            return None
        if diagonal.shift is None or not all(isinstance(reader, Map) for reader in readers):
            return None
        arg, before = source.args[0], Price()
        if isinstance(arg, Map) and self.terms.is_inner(arg):
            first = Diagonal.of(arg)  # the scale and the shift may be two nodes
            both = None if first is None else diagonal.after(first)
            if both is not None:
                diagonal, before, arg = both, arg.price(), arg.args[0]
        shift = diagonal.shifted_first()
        added = None if shift is None else self.node(arg, shift, source, anywhere=True)
        if added is None or not self.holds(source, replace(diagonal, shift=None), comes=False):
            return None
        moves = [Move(before, added.price(), ((source, lambda: added),), (source,))]
        scale = replace(diagonal, shift=None)
        for reader in readers:
            assert isinstance(reader, Map)
            move = self._taken_in(reader, added, scale, [source])
            if move is None:
                return None
            moves.append(replace(move, scaled=()))
        return Move.together(moves)

    def _along(self, diagonal: Diagonal) -> Move | None:
        """Return the best move of the map along the path that starts at its only consumer."""
        source = self.source
        below: Term = source
        moved = diagonal
        path: list[Term] = []
        found: list[Move | None] = []
        beside = Move()
        while self.step(below):
            users = self.terms.users[below]
            if below in self.terms.roots or len(users) != 1:
                self.refuse_readers(below)
                break
            above = next(iter(users))
            self.terms.watch(above, source)
            if isinstance(above, Map):
                found.append(_both(beside, self._taken_in(above, below, moved, path)))
            after = self._behind(above, below, moved)
            if isinstance(above, Sum):
                others = self._beside(above, below, moved)
                joint = None if others is None else beside.joined(others)
                if joint is None:
                    break
                beside = joint
            if after is None or not self.holds(above, after, comes=False):
                break
            moved = after.simplest()
            found.append(_both(beside, self._left_behind(above, moved, path)))
            path.append(above)
            below = above
        move = self.best(found)
        return _both(Move(swap=((source, lambda: source.args[0]),)), move)

    def _beside(self, above: Sum, below: Term, diagonal: Diagonal) -> Move | None:
        """Merge the inverse scale into the other terms of a sum: s a + b = s (a + b / s)."""
        inverse = replace(diagonal, shift=None).root(-1)
        if inverse is None:
            return None
        search = Hoisting(self.terms, self.source, limited=self.limited)
        moves: list[Move] = []
        for other in above.args:
            if other is below:
                continue
            move = search.absorbing(other, inverse, above) if self.holds(other, inverse) else None
            if move is None:
                self.refusals += search.refusals
                self.limit = self.limit or search.limit
                return None
            moves.append(move)
        total = Move.together(moves)
        self.refusals += search.refusals if total is None else ()
        return total

    def _taken_in(
        self, above: Map, below: Term, diagonal: Diagonal, path: Sequence[Term]
    ) -> Move | None:
        """Merge the map into the one that would follow it."""
        arg = below if path else self.source.args[0]
        steps = [step_of(self.mapped(arg, diagonal, above)), step_of(above)]
        current: Term = above
        while len(steps) < _NEAR and self.terms.is_inner(current):
            current = self.terms.user(current)
            if not isinstance(current, Map | View):
                break
            steps.append(step_of(current))
        run = runs_of([step for step in steps if step is not None])[0]
        part = self.partition(arg, run)
        spans = [(Span(0, last), Span(1, last)) for last in range(1, len(run))]
        move = self.merged(part, spans, lambda span: run[span.last].top)
        return None if move is None else replace(move, scaled=tuple(path))

    def _left_behind(self, above: Term, diagonal: Diagonal, path: Sequence[Term]) -> Move | None:
        """Write the map as a node after a term that it has passed."""
        if not isinstance(above, Homogeneous | View | Sum | Concat):
            return None
        node = self.node(above, diagonal, above)
        if node is None:
            return None
        source = self.source

        def build() -> Term:
            args = tuple(source.args[0] if arg is source else arg for arg in above.args)
            return replace(node, args=(copy_of(above, args),))

        return Move(after=node.price(), swap=((above, build),), scaled=tuple(path))

    def _behind(self, above: Term, below: Term, diagonal: Diagonal) -> Diagonal | None:
        """Return a map of an argument after the term that reads it."""
        found: Diagonal | None = None
        times = self.terms.users[below][above]
        if isinstance(above, View):
            axis_map = None if diagonal.axis is None else above.op.forward(diagonal.axis)
            mixed = axis_map is not None and axis_map.gathers
            found = diagonal.spread(None if mixed else axis_map)
        elif isinstance(above, Homogeneous):
            found = _power(above, below, diagonal)
        elif isinstance(above, Concat):
            found = _stacked(above, below, times, diagonal)
        elif isinstance(above, Sum):
            found = _added(above, below, times, diagonal)
        elif isinstance(above, Map) and not above.is_part:
            found = commuted(above, diagonal, back=False)
        if isinstance(above, Homogeneous) and not above.scaling.degrees:
            self.refuse(Reason.UNSUPPORTED, f"{op_name(above)} lets no factor pass")
        elif found is None:
            self.refuse(Reason.UNSUPPORTED, f"there is no such map behind {op_name(above)}")
        return found


def _both(beside: Move, move: Move | None) -> Move | None:
    """Combine a move with the changes of other arguments that it needs."""
    return None if move is None else beside.joined(move)


def _added(term: Sum, arg: Term, times: int, diagonal: Diagonal) -> Diagonal | None:
    """Return a map of one term after the sum, whose other terms get its inverse."""
    if times != 1 or not (term.same or (diagonal.axis is None and diagonal.shift is None)):
        return None
    if diagonal.shift is None:
        return diagonal
    factor = term.factors[term.args.index(arg)]
    return replace(diagonal, shift=factor * diagonal.shift)


def _power(term: Homogeneous, arg: Term, diagonal: Diagonal) -> Diagonal | None:
    """Return a map of an argument after an op."""
    scaling = term.scaling
    if scaling.positive and not diagonal.is_positive:
        return None
    if scaling.joint and len(set(term.args)) > 1:
        return None
    through = diagonal.through(scaling.gain)
    return None if through is None else through_op(term, arg, through, back=False)


def _stacked(term: Concat, arg: Term, times: int, diagonal: Diagonal) -> Diagonal | None:
    """Return a map of one argument of a concatenation after the concatenation."""
    if arg not in term.places or times != 1:
        return None
    return diagonal.within(term.axis, term.places[arg], term.places[term.args[-1]].stop)
