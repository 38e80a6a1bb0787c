"""Minimum cuts of graphs, by Dinic's algorithm (1970)."""

from __future__ import annotations

from collections import deque

__all__ = ["Cut"]


class Cut:
    """A graph whose vertices are assigned to one of two sides at the least cost.

    Vertex 0 is on the first side and vertex 1 on the second.
    """

    def __init__(self) -> None:
        self._edges: list[list[int]] = [[], []]  # the indices of the edges of each vertex
        self._to: list[int] = []
        self._room: list[int] = []

    def vertex(self) -> int:
        """Add a vertex and return its index."""
        self._edges.append([])
        return len(self._edges) - 1

    def charge(self, first: int, second: int, cost: int) -> None:
        """Add a cost for having one vertex on the first side and another on the second."""
        if first == second:
            return
        for start, end, room in ((first, second, cost), (second, first, 0)):
            self._edges[start].append(len(self._to))
            self._to.append(end)
            self._room.append(room)

    def second_side(self) -> list[bool]:
        """Return for each vertex whether it is on the second side in a minimum cut."""
        while True:
            levels = self._levels()
            if levels[1] < 0:
                return [level < 0 for level in levels]
            self._fill(levels)

    def _levels(self) -> list[int]:
        """Return each vertex's distance from vertex 0 over edges with capacity; -1 if none."""
        levels = [-1] * len(self._edges)
        levels[0] = 0
        pending = deque([0])
        while pending:
            vertex = pending.popleft()
            for edge in self._edges[vertex]:
                end = self._to[edge]
                if self._room[edge] and levels[end] < 0:
                    levels[end] = levels[vertex] + 1
                    pending.append(end)
        return levels

    def _fill(self, levels: list[int]) -> None:
        """Augment the flow along shortest paths until none is left (a blocking flow)."""
        following = [0] * len(self._edges)
        path: list[int] = []
        vertex = 0
        while True:
            if vertex == 1:
                least = min(self._room[edge] for edge in path)
                for edge in path:
                    self._room[edge] -= least
                    self._room[edge ^ 1] += least
                full = next(i for i, edge in enumerate(path) if not self._room[edge])
                vertex = self._to[path[full] ^ 1]
                del path[full:]
                continue
            edges = self._edges[vertex]
            while following[vertex] < len(edges):
                edge = edges[following[vertex]]
                end = self._to[edge]
                if self._room[edge] and levels[end] == levels[vertex] + 1:
                    path.append(edge)
                    vertex = end
                    break
                following[vertex] += 1
            else:
                if not path:
                    return
                vertex = self._to[path.pop() ^ 1]
                following[vertex] += 1
