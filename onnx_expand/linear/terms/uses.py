"""The live terms of a graph and their users."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping

import onnx_ir as ir

from onnx_expand.linear.terms.base import Term

__all__ = ["Swap", "Uses"]

Swap = dict[Term, Term]

_FEW = 8  # maximum number of neighbours to visit again when one of them changed


class Uses:
    """The live terms of one graph and their users.

    Attributes:
        users: For each live term the terms that have it as an argument, once per use.
        roots: The terms of values with consumers that are not terms, with these values.
        equal: Further values of the source that equal a term, by the term.
        shape_readers: By a term with the extents of a value, the nodes that read only the shape
        of that value, and the value.
        scaled: Terms whose contents differ from the source value that they replace.
    """

    def __init__(self) -> None:
        self.users: dict[Term, Counter[Term]] = {}
        self.roots: dict[Term, list[ir.Value]] = {}
        self.equal: dict[Term, list[ir.Value]] = {}
        self.shape_readers: dict[Term, list[tuple[ir.Node, ir.Value]]] = {}
        self.scaled: set[Term] = set()
        self._watchers: dict[Term, set[Term]] = {}
        self._use_count: Counter[Term] = Counter()  # a user counts once per use
        self._count = 0

    def count(self, term: Term) -> int:
        """Count the uses of a term, by terms and by the rest of the graph."""
        return self._use_count[term] + self._pins(term)

    def _pins(self, term: Term) -> int:
        """Count the uses of a term by the rest of the graph, including reads of its shape."""
        return max(1, len(self.roots[term])) if term in self.roots else 0

    def is_live(self, term: Term) -> bool:
        """Return whether the graph's outputs depend on a term."""
        return term in self.users

    def is_inner(self, term: Term) -> bool:
        """Return whether a term is the only user of another."""
        return term not in self.roots and self._use_count[term] == 1

    def user(self, term: Term) -> Term:
        """Return a user of a term."""
        return next(iter(self.users[term]))

    def live(self) -> Iterator[Term]:
        """Return the live terms in topological order."""
        return _postorder(self.roots)

    def _admit(self, term: Term) -> list[Term]:
        """Add a term and its arguments; return those that are new."""
        new = list(_postorder([term], self.users))
        for current in new:
            self._count += 1
            current.order = self._count
            self.users[current] = Counter()
            for arg in current.args:
                self.users[arg][current] += 1
                self._use_count[arg] += 1
        return new

    def _release(self, terms: Iterable[Term]) -> list[Term]:
        """Remove unused terms; return the live terms that they used."""
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
        """Replace terms by equal ones; return the terms around the changes."""

        def final(term: Term) -> Term:
            while term in swap:
                term = swap[term]
            return term

        for new in swap.values():
            for term in _postorder([new], self.users):
                term.args = tuple(map(final, term.args))
        admitted = [t for new in dict.fromkeys(map(final, swap)) for t in self._admit(new)]
        touched = list(admitted)
        for old in swap:
            new = final(old)
            if old in self.users:
                touched += self._move_users(old, new)
        touched += self._release(swap)
        return self._around(touched, set(admitted))

    def _move_users(self, old: Term, new: Term) -> list[Term]:
        """Move the users of one term to another; return these users."""
        touched = list(self.users[old])
        if new.value is None and new.node is None:
            new.value = old.value
        if new.tensor.extents is None:
            new.tensor = old.tensor  # the same tensor, with more known facts
        for user, times in list(self.users[old].items()):
            _replace(user, old, new, times)
            self.users[new][user] += times
            self._use_count[new] += times
        self.users[old].clear()
        self._use_count[old] = 0
        if old.value is not None and new.value is not old.value:
            self.equal.setdefault(new, []).append(old.value)
        self.equal.setdefault(new, []).extend(self.equal.pop(old, ()))
        if old in self.scaled and new.value is old.value:
            self.scaled.add(new)
        if old in self.roots:
            self.roots.setdefault(new, []).extend(self.roots.pop(old))
        if old in self.shape_readers:
            self.shape_readers.setdefault(new, []).extend(self.shape_readers.pop(old))
        return touched

    def _around(self, touched: Iterable[Term], new: Container[Term]) -> list[Term]:
        """Return changed terms, their arguments, and the users of both.

        If a join has many arguments or a term has many users, only those that changed are
        returned; the others are not affected.
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
        """Visit one term again when another, possibly distant, term has changed."""
        self._watchers.setdefault(term, set()).add(by)

    def watchers(self, term: Term) -> list[Term]:
        """Return the terms to visit again after a term has changed."""
        found = (t for t in self._watchers.pop(term, ()) if t in self.users)
        return sorted(found, key=lambda t: t.order)


def _replace(user: Term, old: Term, new: Term, times: int) -> None:
    """Replace an argument of a term, which it reads a number of times."""
    args, reads = list(user.args), list(user.reads)
    at = -1
    for _ in range(times):
        at = args.index(old, at + 1)
        args[at] = new
        if reads[at] is old.value:
            reads[at] = new.value
    user.args, user.reads = tuple(args), tuple(reads)


def _postorder(roots: Collection[Term], known: Container[Term] = ()) -> Iterator[Term]:
    """Yield terms, each once and after its arguments, except those that are known."""
    seen: set[Term] = set()
    pending = [(term, False) for term in reversed(list(roots))]
    while pending:
        term, ready = pending.pop()
        if ready:
            yield term
        elif term not in seen and term not in known:
            seen.add(term)
            pending.append((term, True))
            pending += [(arg, False) for arg in reversed(term.args)]
