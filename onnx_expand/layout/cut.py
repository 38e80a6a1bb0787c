"""Minimum cuts, for choices between two sides (Dinic, 1970)."""

from __future__ import annotations

from collections import deque

__all__ = ["Cut"]


class Cut:
    """A graph of vertices that are to be put on one of two sides.

    Vertex 0 lies on the first side and vertex 1 on the second.
    """

    def __init__(self) -> None:
        self._edges: list[list[int]] = [[], []]  # per vertex the numbers of its edges
        self._to: list[int] = []
        self._room: list[int] = []

    def vertex(self) -> int:
        """A new vertex."""
        self._edges.append([])
        return len(self._edges) - 1

    def charge(self, first: int, second: int, cost: int) -> None:
        """Put a price on one vertex on the first side and another on the second."""
        if first == second:
            return
        for start, end, room in ((first, second, cost), (second, first, 0)):
            self._edges[start].append(len(self._to))
            self._to.append(end)
            self._room.append(room)

    def second_side(self) -> list[bool]:
        """For each vertex whether it lies on the second side, at the least cost."""
        while True:
            levels = self._levels()
            if levels[1] < 0:
                return [level < 0 for level in levels]
            self._fill(levels)

    def _levels(self) -> list[int]:
        """How far each vertex is from the first one by edges with room; -1 if there is no way."""
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
        """Send through what goes by shortest ways."""
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
