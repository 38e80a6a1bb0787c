"""Stretches: consecutive terms, with joins as single steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnx_expand.linear.chains.joins import join_step
from onnx_expand.linear.chains.shuffles import with_shuffles
from onnx_expand.linear.chains.steps import Step, step_of
from onnx_expand.linear.terms.base import Term
from onnx_expand.linear.terms.uses import Uses

__all__ = ["Stretch", "Stretches"]

_DEEPEST = 64  # maximum depth of nested joins
_LARGEST = 512  # maximum number of terms of one join


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps whose intermediate values have no other consumers.

    Attributes:
        root: The term that the first step reads.
        steps: The steps, in order.
    """

    root: Term
    steps: list[Step]


@dataclass(eq=False)
class _Branch:
    """Steps from an argument of a join down to a term.

    Attributes:
        end: The term.
        edges: The number of times the lowest step reads it.
        first: The term of the lowest step; None if there is no step.
        steps: The last one first.
    """

    end: Term
    edges: int = 1
    first: Term | None = None
    steps: list[Step] = field(default_factory=list)

    def extend(self, below: Term, edges: int, step: Step) -> None:
        """Add the step that computes the end."""
        self.first, self.end, self.edges = self.end, below, edges
        self.steps.append(step)


def _uses(branches: Iterable[_Branch]) -> int:
    """Count the uses of the terms at the ends of branches; shared steps count once."""
    through = {branch.first: branch.edges for branch in branches if branch.first is not None}
    return sum(through.values()) + sum(branch.first is None for branch in branches)


class Stretches(Uses):
    """Finds the stretches of a graph's live terms."""

    def __init__(self) -> None:
        super().__init__()
        self._joins: dict[Term, tuple[Term, int, Step] | None] = {}

    def take(self, swap: Mapping[Term, Term]) -> list[Term]:
        """Update the live terms, and search for joins again."""
        self._joins.clear()
        return super().take(swap)

    def stretch(self, top: Term) -> Stretch:
        """Return the longest stretch that ends at a term."""
        steps: list[Step] = []
        current = top
        while True:
            found = self._step(current)
            if found is None:
                break
            below, edges, step = found
            steps.append(step)
            current = below
            if below in self.roots or self._use_count[below] != edges:
                break
        return Stretch(current, with_shuffles(steps[::-1]))

    def last_step(self, top: Term) -> Step | None:
        """Return the last step of the stretch that ends at a term; None if it has none.

        Only the views at its end matter, of which the last may be a shuffle.
        """
        steps: list[Step] = []
        current = top
        while (found := self._step(current)) is not None:
            below, edges, step = found
            steps.append(step)
            if step.view is None or below in self.roots or self._use_count[below] != edges:
                break
            current = below
        return with_shuffles(steps[::-1])[-1] if steps else None

    def _step(self, term: Term, depth: int = 0) -> tuple[Term, int, Step] | None:
        """Return a term as a step: the term that it reads, how often, and the step."""
        if not term.is_join:
            step = step_of(term)
            return None if step is None else (term.args[0], 1, step)
        if term not in self._joins:
            self._joins[term] = self._join(term, depth)
        return self._joins[term]

    def _join(self, term: Term, depth: int) -> tuple[Term, int, Step] | None:
        if depth > _DEEPEST or len(term.args) > _LARGEST:
            return None
        branches: list[_Branch] = []
        for arg in term.args:
            branch = _Branch(arg)
            while branch.end not in self.roots and self._use_count[branch.end] == branch.edges:
                found = self._step(branch.end, depth + 1)
                if found is None:
                    break
                branch.extend(*found)
                if len(branch.steps) > _LARGEST:
                    return None
            branches.append(branch)
        if not self._meet(branches, depth):
            return None
        whole = join_step(term, [with_shuffles(branch.steps[::-1]) for branch in branches])
        if whole is None or len(whole.terms) > _LARGEST:
            return None
        return branches[0].end, _uses(branches), whole

    def _meet(self, branches: Sequence[_Branch], depth: int) -> bool:
        """Extend branches with common terms; return whether all end at one term."""
        while True:
            ends: dict[Term, list[_Branch]] = {}
            for branch in branches:
                ends.setdefault(branch.end, []).append(branch)
            if len(ends) == 1:
                return True
            for end, here in sorted(ends.items(), key=lambda item: -item[0].order):
                if end in self.roots or self._use_count[end] != _uses(here):
                    continue
                found = self._step(end, depth + 1)
                if found is None or len(here[0].steps) > _LARGEST:
                    continue
                for branch in here:
                    branch.extend(*found)
                break
            else:
                return False

    def ends(self, terms: Iterable[Term]) -> Iterator[Term]:
        """Return the ends of the longest stretches through some terms."""
        above: set[Term] = set()
        below: set[Term] = set()
        for term in terms:
            current = term
            while current not in below:
                below.add(current)
                found = self._step(current)
                if found is None:
                    yield current
                elif found[0] in self.roots or self._use_count[found[0]] != found[1]:
                    yield found[0]
                else:
                    current = found[0]
            current = term
            while current not in above:
                above.add(current)
                over = None if self.is_inner(current) else self._join_over(current)
                if self.is_top(current):
                    yield current
                else:
                    current = self.user(current) if over is None else over

    def is_top(self, term: Term) -> bool:
        """Return whether no longer stretch continues through a term."""
        if term in self.roots or not self.users[term]:
            return True
        if self.is_inner(term):
            above = self.user(term)
            return above.is_join or above.is_opaque
        return self._join_over(term) is None

    def _join_over(self, term: Term) -> Term | None:
        """Return the join whose branches are the only users of a term, if there is one.

        Users are followed, each once all of its arguments have been reached, until a join collects
        all edges.
        """
        if self._use_count[term] > _LARGEST:
            return None
        arrived: Counter[Term] = Counter()  # number of edges into each term
        ready, current, edges = list[Term](), term, 0
        for _ in range(2 * _LARGEST):
            edges += self._use_count[current]
            for user, times in self.users[current].items():
                arrived[user] += times
                if arrived[user] == len(user.args):
                    ready.append(user)
            if not ready:
                break
            current = ready.pop()
            edges -= len(current.args)
            if not edges and current.is_join and self._is_over(current, term):
                return current
            if current.is_opaque or current in self.roots:
                break
        return None

    def _is_over(self, join: Term, term: Term) -> bool:
        found = self._step(join)
        return found is not None and found[0] is term and found[1] == self._use_count[term]

    def outer(self, root: Term, user: Term) -> Term:
        """Return the end of the longest stretch that starts at a term with one of its users."""
        current = user
        while current not in self.roots and self.users[current] and not current.is_opaque:
            if self.is_inner(current):
                above = self.user(current)
                if above.is_opaque:
                    break
                if above.is_join:
                    found = self._step(above)
                    if found is None or found[0] is not root:
                        break
                current = above
                continue
            over = self._join_over(current)
            if over is None:
                break
            current = over
        return current

    def entries(self, stretch: Stretch) -> int:
        """Count how often the first step of a stretch reads its root."""
        found = self._step(stretch.steps[0].top) if stretch.steps else None
        return 0 if found is None else found[1]
