"""Maps whose output several others read, merged into each of these where that costs less.

A normalization in front of three projections, or a layer that two branches read, belongs to no
one region: its output is shared. Where every reader can take the map in, and all of them together
then cost less than before, each reads the input of the shared map instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnx_expand.cost import Cost
from onnx_expand.elements import Element
from onnx_expand.passes.partition import Partitioner, Policy, Span, sum_costs
from onnx_expand.regions import Chain, connected, extents_of
from onnx_expand.values import Facts

__all__ = ["Reroot", "find_reroots"]


@dataclass(frozen=True)
class Reroot:
    """A shared map, and the regions that would take it in.

    Attributes:
        value: The shared output.
        shared: How many elements of each region are the shared map.
        parts: For each reader the shared elements and those behind it, partitioned.
        before: What all of it costs as it stands.
        after: What the regions cost once they have taken the map in.
    """

    value: ir.Value
    shared: int
    parts: tuple[Partitioner, ...]
    before: Cost
    after: Cost


def find_reroots(chains: Sequence[Chain], facts: Facts, policy: Policy) -> Iterator[Reroot]:
    """The shared maps of a graph that cost less in each of their readers."""
    readers: dict[ir.Value, list[Chain]] = {}
    for chain in chains:
        readers.setdefault(chain.root, []).append(chain)
    for chain in chains:
        value = chain.elements[-1].output
        following = readers.get(value, [])
        if len(following) < 2 or value.is_graph_output():
            continue
        nodes = {n for other in following for element in other.elements for n in element.nodes()}
        if not set(facts.readers(value)) <= nodes:
            continue
        found = [
            plan
            for start in range(len(chain.elements))
            if (plan := _plan(chain, start, following, facts, policy)) is not None
        ]
        if found:
            yield min(found, key=lambda plan: policy.key(plan.after))


def _plan(
    chain: Chain, start: int, following: Sequence[Chain], facts: Facts, policy: Policy
) -> Reroot | None:
    """What becomes of the elements from an index on when every reader takes them in."""
    whole = Partitioner(chain.elements, chain.extents, chain.rank, facts)
    shared: Sequence[Element] = chain.elements[start:]
    shape = facts.shape(shared[0].input)
    parts, apart = [], [Cost()]
    for other in following:
        elements = connected(shared, other.elements)
        if elements is None:
            return None
        extents = extents_of(elements, shape)
        part = Partitioner(elements, extents, whole.rank_at(start), facts, may_shift=False)
        merges = list(part.merges(policy))
        if not merges or merges[0][0] is not part:
            return None
        first = merges[0][1]
        if first.first or first.last < len(shared):
            return None
        parts.append(part)
        own = Span(0, len(shared) - 1)
        alone = Partitioner(other.elements, part.extents_after(own), other.rank, facts)
        apart[0] = part.as_is(own)
        apart.append(alone.best(policy))
    before, after = sum_costs(iter(apart)), sum_costs(part.best(policy) for part in parts)
    if policy.key(after) >= policy.key(before):
        return None
    return Reroot(chain.elements[-1].output, len(shared), tuple(parts), before, after)
