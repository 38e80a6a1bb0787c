"""Hoist diagonal maps towards the inputs: into the producers of their arguments, or past them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from onnx_expand.errors import Reason
from onnx_expand.linear.chains.runs import runs_of
from onnx_expand.linear.chains.steps import Span, step_of
from onnx_expand.linear.rules.diagonal import Diagonal, commuted, through_op
from onnx_expand.linear.rules.moves import Move, Search, copy_of, op_name
from onnx_expand.linear.terms.base import Concat, Homogeneous, Map, SplitInput, Sum, Term, View

__all__ = ["Hoisting"]

_NEAR = 4  # steps before a map that may merge with it

_PARTS = 64  # parts of a split value, which are compared pairwise


class Hoisting(Search):
    """Searches for where one map can move towards the inputs."""

    def move(self, diagonal: Diagonal) -> Move | None:
        """Return the best move of the map before the producer of its argument."""
        source = self.source
        top = source.args[0]
        move = self._into(top, diagonal, source, may_rest=False)
        if move is None:
            return None
        without = Move(swap=((source, lambda: top),))
        if any(old is top for old, _ in move.swap):
            scaled = tuple(t for t in move.scaled if t is not top)
            return without.joined(replace(move, scaled=scaled))
        if isinstance(top, Map) and top.is_part:
            values = self.terms.roots.get(source, ())
            return None if any(v.is_graph_output() for v in values) else without.joined(move)
        # The term that takes over the map's value is written again, so that the name keeps its
        # values.
        edges = tuple((source if r is top else r, a, b) for r, a, b in move.edges)
        scaled = tuple(t for t in move.scaled if t is not top)
        copied = Move(swap=((source, lambda: copy_of(top, top.args)),))
        return copied.joined(replace(move, edges=edges, scaled=scaled))

    def absorbing(self, term: Term, diagonal: Diagonal, above: Term) -> Move | None:
        """Return the best way to apply a diagonal map after a term without a separate node."""
        return self._into(term, diagonal, above, may_rest=False)

    def _into(
        self, term: Term, diagonal: Diagonal, above: Term, *, may_rest: bool = True
    ) -> Move | None:
        """Return the best way to apply a diagonal map after a term.

        Args:
            term: The term.
            diagonal: The map.
            above: The consumer of the term.
            may_rest: Whether the map may be a separate node after the term.
        """
        diagonal = diagonal.simplest()
        if diagonal.does_nothing:
            return Move()
        if not self.step(term):
            return None
        found = [self._rest(term, diagonal, above)] if may_rest else []
        if self._is_only(term, above):
            found += self._taken_in(term, diagonal)
        else:
            self.refuse_readers(term)
        return self.best(found)

    def _is_only(self, term: Term, above: Term) -> bool:
        """Return whether a term is the only consumer of another."""
        return term not in self.terms.roots and set(self.terms.users[term]) == {above}

    def _taken_in(self, term: Term, diagonal: Diagonal) -> list[Move | None]:
        """Return the moves that merge a map into a term or its arguments."""
        found = self._absorbed(term, diagonal) if isinstance(term, Map) else None
        if found is not None and found.is_free:
            return [found]
        return [found, self._past(term, diagonal)]

    def _rest(self, term: Term, diagonal: Diagonal, above: Term) -> Move | None:
        """Write the map as a node between a term and its consumer."""
        if not isinstance(above, Homogeneous | View | Sum | Concat):
            return None
        node = self.node(term, diagonal, above)
        if node is None:
            return None
        return Move(after=node.price(), edges=((above, term, lambda: node),))

    def _absorbed(self, term: Map, diagonal: Diagonal) -> Move | None:
        """Merge the map into the one that it would follow."""
        stretch = self.terms.stretch(term)
        follows = step_of(self.mapped(term, diagonal, term))
        assert follows is not None
        run = runs_of([*stretch.steps[-_NEAR:], follows])[-1]
        last = len(run) - 1
        if not last:
            return None
        first = len(stretch.steps) - last
        root = stretch.steps[first - 1].top if first else stretch.root
        part = self.partition(root, run)
        spans = [(Span(i, last), Span(i, last - 1)) for i in range(last - 1, -1, -1)]
        move = self.merged(part, spans, lambda span: term)
        return None if move is None else replace(move, scaled=(term,))

    # -- Past ops that are not maps ------------------------------------------------------------

    def _past(self, term: Term, diagonal: Diagonal) -> Move | None:
        """Return the best way to move a map from after a term to before it."""
        if isinstance(term, View):
            axis_map = None if diagonal.axis is None else term.op.backward(diagonal.axis)
            return self._before(term, [(term.args[0], diagonal.spread(axis_map))])
        if isinstance(term, Homogeneous):
            return self._before_op(term, diagonal)
        if isinstance(term, Sum | Concat):
            return self._before_join(term, diagonal)
        if isinstance(term, Map) and isinstance(term.args[0], SplitInput):
            return self._before_part(term, diagonal)
        if isinstance(term, Map):
            return self._before(term, [(term.args[0], commuted(term, diagonal, back=True))])
        if term.anchor is None:
            self.refuse(Reason.UNSUPPORTED, "its argument is an input")
        else:
            self.refuse(Reason.UNSUPPORTED, f"{op_name(term)} lets no factor pass")
        return None

    def _before(self, term: Term, moved: Sequence[tuple[Term, Diagonal | None]]) -> Move | None:
        """Replace a map after a term by maps of some of its arguments."""
        known: list[tuple[Term, Diagonal]] = []
        for arg, diagonal in moved:
            if diagonal is None:
                self.refuse(Reason.GEOMETRY, f"there is no such map before {op_name(term)}")
                return None
            if not self.holds(arg, diagonal):
                return None
            known.append((arg, diagonal.simplest()))
        moves = [Move(scaled=(term,))]
        for move in self._moves_before(term, known):
            if move is None:
                return None
            moves.append(move)
        return Move.together(moves)

    def _moves_before(
        self, above: Term, moved: Sequence[tuple[Term, Diagonal]]
    ) -> Iterator[Move | None]:
        """Combine the moves of maps of arguments; maps of parts of one value become one map."""
        parts: dict[Term, list[tuple[Term, Diagonal]]] = {}
        for arg, diagonal in moved:
            found = self._is_only(arg, above) and self._whole(arg, diagonal)
            if found:
                parts.setdefault(found[0], []).append((arg, found[1]))
        together: set[Term] = set()
        for x, same in parts.items():
            if len(same) == 1:
                continue
            whole: Diagonal | None = same[0][1]
            for _, other in same[1:]:
                whole = None if whole is None else other.after(whole)
            args = [arg for arg, _ in same]
            move = self._before_whole(args, x, whole)
            if move is not None:
                together.update(args)
                yield move
        for arg, diagonal in moved:
            if arg not in together:
                yield self._into(arg, diagonal, above)

    def _before_op(self, term: Homogeneous, diagonal: Diagonal) -> Move | None:
        scaling = term.scaling
        if not scaling.degrees:
            self.refuse(Reason.UNSUPPORTED, f"{op_name(term)} lets no factor pass")
            return None
        if scaling.positive and not diagonal.is_positive:
            self.refuse(Reason.UNSUPPORTED, f"{op_name(term)} lets no negative factor pass")
            return None
        if scaling.part is not None and not self._is_only(term.args[0], term):
            return self._before_part(term, diagonal)
        through = diagonal.through(scaling.gain, back=True)
        if through is None:
            self.refuse(Reason.UNSUPPORTED, f"{op_name(term)} lets no shift pass")
            return None
        args = dict.fromkeys(term.args)
        moved = [(arg, through_op(term, arg, through, back=True)) for arg in args]
        if scaling.joint:
            return self._before(term, moved)
        return self.best(self._before(term, [one]) for one in moved if one[1] is not None)

    # -- Before a value of which a term is a part ----------------------------------------------

    def _whole(self, term: Term, diagonal: Diagonal) -> tuple[Term, Diagonal] | None:
        """Return the value that a term is a part of, and its map that keeps the other parts."""
        whole: Diagonal | None = None
        x = term.args[0] if term.args else term
        if isinstance(term, Homogeneous) and term.scaling.part is not None:
            if diagonal.axis is None and len(term.args) == 1 and self._takes_alone(term, x):
                part = term.scaling.part
                whole = diagonal.within(part.axis, part.places, part.size)
        elif isinstance(term, Map) and isinstance(x, SplitInput):
            picks = term.links[0].picks if term.links else None
            rank, users = x.tensor.rank, self.terms.users[x]
            apart = len(users) <= _PARTS and all(_is_apart(term, other) for other in users)
            x = x.args[0]
            if picks is None or rank is None or term.axes is None or not apart:
                return None
            if self._is_only(x, term.args[0]) and term.args[0] not in self.terms.roots:
                size = term.geometry.in_channels
                whole = diagonal.within(term.axes[0] % rank, range(*picks), size)
        return None if whole is None else (x, whole)

    def _takes_alone(self, term: Homogeneous, x: Term) -> bool:
        """Return whether no other consumer reads the part of a value that a term reads."""
        part = term.scaling.part
        assert part is not None
        for other in self.terms.users[x]:
            if other is term:
                continue
            theirs = other.scaling.part if isinstance(other, Homogeneous) else None
            apart = theirs is not None and theirs.axis == part.axis and other.args == (x,)
            if theirs is None or not apart or not part.places.isdisjoint(theirs.places):
                return False
        return x not in self.terms.roots

    def _before_part(self, term: Map | Homogeneous, diagonal: Diagonal) -> Move | None:
        """Move a map before a value of which a term is a part, for that part only."""
        found = self._whole(term, diagonal)
        if found is None:
            split = term.args[0]
            self.refuse_readers(split.args[0] if isinstance(split, SplitInput) else split)
            return None
        return self._before_whole([term], *found)

    def _before_whole(self, parts: Sequence[Term], x: Term, whole: Diagonal | None) -> Move | None:
        """Like `_before`, but other consumers read parts of the argument that must not change."""
        if whole is None or not self.holds(x, whole) or not self.step(x):
            return None
        move = self.best(self._taken_in(x, whole.simplest()))
        return None if move is None else Move(scaled=tuple(parts)).joined(move)

    def _before_join(self, term: Sum | Concat, diagonal: Diagonal) -> Move | None:
        """Apply `s (a + b) + t = (s a + t) + s b` and `s [a, b] + t = [s1 a + t1, s2 b + t2]`."""
        if len(set(term.args)) < len(term.args):
            return None
        moved: list[tuple[Term, Diagonal | None]] = []
        first = 0
        for i, arg in enumerate(term.args):
            own: Diagonal | None = diagonal
            if isinstance(term, Concat):
                extents = arg.tensor.extents
                count = None if extents is None else extents[term.axis]
                if diagonal.axis == term.axis:
                    own = diagonal.part(first, count) if isinstance(count, int) else None
                    first += count if isinstance(count, int) else 0
            else:
                own = _broadcast(term, arg, diagonal)
                if own is not None and i and term.factors[0] == 1:
                    # One term of a sum gets the shift, or each term of a mean.
                    own = replace(own, shift=None)
            moved.append((arg, own))
        return self._before(term, moved)


def _is_apart(term: Map, other: Term) -> bool:
    """Return whether all other consumers of a split node read other parts."""
    if other is term:
        return True
    if not isinstance(other, Map) or not other.is_part or not other.links:
        return False
    mine, theirs = term.links[0].picks, other.links[0].picks
    return (
        mine is not None and theirs is not None and (mine[1] <= theirs[0] or theirs[1] <= mine[0])
    )


def _broadcast(term: Sum, arg: Term, diagonal: Diagonal) -> Diagonal | None:
    """Return the map of a term of a sum, which may be broadcast, but not along the channels."""
    if diagonal.axis is None or term.same:
        return diagonal
    own, out = arg.tensor.extents, term.tensor.extents
    if own is None or out is None:
        return None
    axis = diagonal.axis % len(out) - len(out) + len(own)  # aligned from the back
    if axis < 0 or own[axis] != diagonal.scale.size:
        return None
    return replace(diagonal, axis=axis)
