"""The driver: a worklist of terms, rules that say what may replace them, and what is alive."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_expand.errors import Refusal
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.patterns import Composites
from onnx_expand.linear.build import Builder
from onnx_expand.linear.joins import join_step
from onnx_expand.linear.partition import Clock
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.shuffles import with_shuffles
from onnx_expand.linear.steps import Step, step_of
from onnx_expand.linear.terms import Fill, Map, Read, Term, View

__all__ = ["Rule", "Stretch", "Swap", "Terms"]

Swap = dict[Term, Term]
Rule = Callable[["Terms", Term], "Swap | None"]

_DEEPEST = 64  # joins within joins
_LARGEST = 512  # terms of one join
_REWRITES = 16  # for each term that there is at the beginning
_FEW = 8  # neighbours of a term that are looked at again when only one of them changed


@dataclass(frozen=True)
class Stretch:
    """Steps one after the other, nothing between which is read elsewhere.

    Attributes:
        root: What the first step reads.
        steps: First to last.
    """

    root: Term
    steps: list[Step]


@dataclass(eq=False)
class _Branch:
    """Steps from an argument of a join down to a term.

    Attributes:
        end: The term.
        edges: How often the lowest step reads it.
        first: The term of the lowest step; None if there is no step.
        steps: The last one first.
    """

    end: Term
    edges: int = 1
    first: Term | None = None
    steps: list[Step] = field(default_factory=list)

    def extend(self, below: Term, edges: int, step: Step) -> None:
        """Go on with the step that computes the end."""
        self.first, self.end, self.edges = self.end, below, edges
        self.steps.append(step)


def _uses(branches: Iterable[_Branch]) -> int:
    """How often branches read the terms at their ends; what several go through counts once."""
    through = {branch.first: branch.edges for branch in branches if branch.first is not None}
    return sum(through.values()) + sum(branch.first is None for branch in branches)


@dataclass(eq=False)
class Terms:
    """The linear part of one graph, and who uses what.

    Attributes:
        graph: The graph.
        facts: What is known about the model.
        policy: What to minimize.
        users: For each live term those that it is an argument of, once for each time.
        roots: The terms of values that something other than a term reads, with these values.
        askers: By a term that has the extents of a value: nodes that read nothing but the shape
            of that value, and the value.
        composites: The composite patterns, whose nodes are no terms; None where the policy looks
            into them.
        locked: The labels of nodes that are no terms, either.
        scaled: Terms that have other numbers than the value of the source in whose place they are.
        stuck: Maps whose factors could go nowhere else, and why.
    """

    graph: ir.Graph
    facts: Facts
    policy: Policy
    users: dict[Term, Counter[Term]] = field(default_factory=dict)
    roots: dict[Term, list[ir.Value]] = field(default_factory=dict)
    forbidden: dict[tuple[Term, ...], Refusal] = field(default_factory=dict)
    done: set[tuple[Term, ...]] = field(default_factory=set)
    dropped: list[Map | View] = field(default_factory=list)
    equal: dict[Term, list[ir.Value]] = field(default_factory=dict)
    askers: dict[Term, list[tuple[ir.Node, ir.Value]]] = field(default_factory=dict)
    scaled: set[Term] = field(default_factory=set)
    stuck: dict[Term, Refusal] = field(default_factory=dict)
    clock: Clock | None = None
    composites: Composites | None = None
    locked: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.policy not in {Policy.ALWAYS, Policy.MARKED}:
            self.composites = Composites(self.graph, self.facts)
        built = Builder(self.graph, self.facts, self.composites, self.locked)
        self.refused = built.refused
        self.nodes = built.nodes
        self.frames = {n for t in built.of.values() if isinstance(t, Fill) for n in t.frame.nodes}
        self._joins: dict[Term, tuple[Term, int, Step] | None] = {}
        self._watchers: dict[Term, set[Term]] = {}
        self._use_count: Counter[Term] = Counter()  # a user counts as often as it reads the term
        self._count = 0
        inside = self.nodes.keys() | self.frames
        for value, term in list(built.of.items()):
            if term.node is None:
                continue
            outside = [n for n in self.facts.readers(value) if n not in inside]
            if outside and not value.is_graph_output() and all(map(_asks_for_shape, outside)):
                twin = self._twin(value, built.of)
                self.askers.setdefault(twin, []).extend((node, value) for node in outside)
                if not isinstance(twin, Read):
                    self.roots.setdefault(twin, [])
            elif value.is_graph_output() or outside:
                self.roots.setdefault(term, []).append(value)
        for term in self.roots:
            self._admit(term)

    def _twin(self, value: ir.Value, of: Mapping[ir.Value, Term]) -> Term:
        """A term of the same extents that will be there whatever becomes of a value."""
        term = of[value]
        while keeps_extents(term):
            term = term.args[0]
        if term.is_opaque:
            return term
        term = of[value]
        while term.value is not None:
            users = {t for n in self.facts.readers(term.value) for t in self.nodes.get(n, ())}
            user = next(iter(users)) if len(users) == 1 else None
            if user is None or user.value is None or not keeps_extents(user):
                break
            term = user
        return term

    def ask_sources(self) -> bool:
        """Let readers of shapes ask what maps that turned out to keep extents are computed from.

        Returns:
            Whether any does now that did not.
        """
        moved = False
        for term in [t for t in self.askers if t in self.users and keeps_extents(t)]:
            twin = term.args[0]
            while keeps_extents(twin):
                twin = twin.args[0]
            if not twin.is_opaque:
                continue
            self.askers.setdefault(twin, []).extend(self.askers.pop(term))
            if not isinstance(twin, Read):
                self.roots.setdefault(twin, [])
            if self.roots.get(term) == []:
                del self.roots[term]
                self._joins.clear()
                self._release([term])
            moved = True
        return moved

    # -- Who uses what ------------------------------------------------------------------------

    def count(self, term: Term) -> int:
        """How often a term is used, by terms and by the rest of the graph."""
        return self._use_count[term] + self._pins(term)

    def _pins(self, term: Term) -> int:
        """How often the rest of the graph uses a term; being asked for its shape is one."""
        return max(1, len(self.roots[term])) if term in self.roots else 0

    def is_live(self, term: Term) -> bool:
        """Whether the graph's outputs depend on a term."""
        return term in self.users

    def is_inner(self, term: Term) -> bool:
        """Whether one term is all that uses another."""
        return term not in self.roots and self._use_count[term] == 1

    def user(self, term: Term) -> Term:
        """A term that uses another."""
        return next(iter(self.users[term]))

    def live(self) -> Iterator[Term]:
        """The live terms, arguments before what is computed from them."""
        seen: set[Term] = set()
        pending: list[tuple[Term, bool]] = [(t, False) for t in reversed(self.roots)]
        while pending:
            term, ready = pending.pop()
            if ready:
                yield term
                continue
            if term in seen:
                continue
            seen.add(term)
            pending.append((term, True))
            pending += [(arg, False) for arg in reversed(term.args)]

    def _admit(self, term: Term) -> list[Term]:
        """Take in a term and what it is computed from; those that are new."""
        new: list[Term] = []
        pending: list[tuple[Term, bool]] = [(term, False)]
        while pending:
            current, ready = pending.pop()
            if ready:
                self._count += 1
                current.order = self._count
                new.append(current)
                continue
            if current in self.users:
                continue
            self.users[current] = Counter()
            pending.append((current, True))
            pending += [(arg, False) for arg in reversed(current.args)]
        for current in new:
            for arg in current.args:
                self.users[arg][current] += 1
                self._use_count[arg] += 1
        return new

    def _release(self, terms: Iterable[Term]) -> list[Term]:
        """Let go of terms that nothing uses; the live ones that they used."""
        touched: list[Term] = []
        pending = list(terms)
        while pending:
            term = pending.pop()
            if term not in self.users or self.count(term):
                continue
            del self.users[term], self._use_count[term]
            for arg in term.args:
                self.users[arg][term] -= 1
                self._use_count[arg] -= 1
                if not self.users[arg][term]:
                    del self.users[arg][term]
                pending.append(arg)
                touched.append(arg)
        return [term for term in touched if term in self.users]

    def take(self, swap: Mapping[Term, Term]) -> list[Term]:
        """Put terms in the place of others that equal them; the terms around what changed."""
        self._joins.clear()

        def final(term: Term) -> Term:
            while term in swap:
                term = swap[term]
            return term

        for new in swap.values():
            for term in _tree(new, self.users):
                term.args = tuple(map(final, term.args))
        admitted = [t for new in dict.fromkeys(map(final, swap)) for t in self._admit(new)]
        touched = list(admitted)
        for old in swap:
            new = final(old)
            if old not in self.users:
                continue
            if new.value is None and new.node is None:
                new.value = old.value
            if new.tensor.extents is None:
                new.tensor = old.tensor  # the same tensor, of which more is known
            for user, times in list(self.users[old].items()):
                _replace(user, old, new)
                self.users[new][user] += times
                self._use_count[new] += times
                touched.append(user)
            self.users[old].clear()
            self._use_count[old] = 0
            if old.value is not None and new.value is not old.value:
                self.equal.setdefault(new, []).append(old.value)
            self.equal.setdefault(new, []).extend(self.equal.pop(old, ()))
            if old in self.scaled and new.value is old.value:
                self.scaled.add(new)
            if old in self.roots:
                self.roots.setdefault(new, []).extend(self.roots.pop(old))
            if old in self.askers:
                self.askers.setdefault(new, []).extend(self.askers.pop(old))
        touched += self._release(swap)
        return self._around(touched, set(admitted))

    def _around(self, touched: Iterable[Term], new: Container[Term]) -> list[Term]:
        """Terms that changed, what they are computed from and who uses either.

        Of the many arguments of a join, and of the many users of a term, those that changed
        themselves are among the terms already; the others see no difference.
        """
        near = [
            t
            for term in touched
            if term in self.users
            for t in (term, *(term.args if term in new or len(term.args) <= _FEW else ()))
        ]
        near = [t for t in dict.fromkeys(near) if t in self.users]
        users = (user for t in near if len(self.users[t]) <= _FEW for user in self.users[t])
        return list(dict.fromkeys([*near, *users]))

    def watch(self, term: Term, by: Term) -> None:
        """Look at one term again once another, which may be far away, has changed."""
        self._watchers.setdefault(term, set()).add(by)

    def watchers(self, term: Term) -> list[Term]:
        """The terms that are to be looked at again now that one has changed."""
        found = (t for t in self._watchers.pop(term, ()) if t in self.users)
        return sorted(found, key=lambda t: t.order)

    # -- Stretches ----------------------------------------------------------------------------

    def stretch(self, top: Term) -> Stretch:
        """The longest stretch that ends at a term."""
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

    def _step(self, term: Term, depth: int = 0) -> tuple[Term, int, Step] | None:
        """A term as a step: what it reads, how often, and the step."""
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
        """Extend branches that have terms in common; whether all end at one term."""
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
        """Where the longest stretches begin and end that go through some terms."""
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
        """Whether no longer stretch goes on through a term."""
        if term in self.roots or not self.users[term]:
            return True
        if self.is_inner(term):
            above = self.user(term)
            return above.is_join or above.is_opaque
        return self._join_over(term) is None

    def _join_over(self, term: Term) -> Term | None:
        """The join whose branches are all that uses a term, if there is one.

        What a term leads to is followed upwards, each term once all of its arguments are among
        that, until a join takes up every edge.
        """
        if self._use_count[term] > _LARGEST:
            return None
        arrived: Counter[Term] = Counter()  # edges into each term
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
        """The end of the longest stretch that begins at a term with one of its users."""
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
        """How often the first step of a stretch reads its root."""
        found = self._step(stretch.steps[0].top) if stretch.steps else None
        return 0 if found is None else found[1]


def _asks_for_shape(node: ir.Node) -> bool:
    """Whether a node reads the extents of a value and none of its numbers."""
    return node.domain == "" and node.op_type in {"Shape", "Size"}


def keeps_extents(term: Term) -> bool:
    """Whether a term has the extents of its argument, whatever these are."""
    if not isinstance(term, Map) or term.is_part:
        return False
    geometry, axes = term.geometry, term.axes
    if axes is None:
        return True
    if geometry.in_channels != geometry.out_channels or axes[0] != axes[1]:
        return False
    plain = not geometry.transposed and set(geometry.strides) <= {1}
    return geometry.is_pointwise or (plain and not any(geometry.overhang))


def _replace(user: Term, old: Term, new: Term) -> None:
    """Let a term be computed from another one than before."""
    args, reads = list(user.args), list(user.reads)
    at = -1
    for _ in range(args.count(old)):
        at = args.index(old, at + 1)
        args[at] = new
        if reads[at] is old.value:
            reads[at] = new.value
    user.args, user.reads = tuple(args), tuple(reads)


def _tree(term: Term, live: Mapping[Term, object]) -> Iterator[Term]:
    """A new term and the new ones that it is computed from."""
    seen: set[Term] = set()
    pending = [term]
    while pending:
        current = pending.pop()
        if current in live or current in seen:
            continue
        seen.add(current)
        yield current
        pending += current.args


def rewrite(terms: Terms, rules: Sequence[Rule]) -> int:
    """Apply rules until none has anything to give; how many rewrites were made.

    Earlier rules go first, each from the inputs of the graph on; after a rewrite only the
    neighbours of what changed are looked at again.
    """
    queue: list[tuple[int, int, int, Term]] = []
    waiting: set[tuple[int, Term]] = set()
    serial = made = 0

    def push(term: Term, index: int = 0) -> None:
        nonlocal serial
        if index < len(rules) and (index, term) not in waiting:
            waiting.add((index, term))
            serial += 1
            heapq.heappush(queue, (index, term.order, serial, term))

    live = list(terms.live())
    for term in live:
        push(term)
    # Equal costs that are reckoned differently on two sides of a view must not go round for ever.
    most = _REWRITES * (len(live) + 1)
    while queue and made < most:
        index, _, _, term = heapq.heappop(queue)
        waiting.discard((index, term))
        if not terms.is_live(term):
            continue
        push(term, index + 1)
        swap = rules[index](terms, term)
        if swap:
            made += 1
            touched = terms.take(swap)
            watching = [other for term in touched for other in terms.watchers(term)]
            for near in (*touched, *watching, *terms.ends(touched)):
                push(near)
    return made
