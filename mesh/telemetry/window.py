"""The last minutes of traffic in memory, for questions without a Prometheus.

Counts fall into slots of ten seconds. Both the number of edges and the number of cells (an edge in
a slot) are bounded: beyond the first, counts go to one edge called `overflow`; beyond the second,
old slots are joined and then forgotten, so that busy meshes see a shorter past and never more
memory. An edge is made of names of the mesh's objects and verified identities only: nothing that a
client chooses (path, host, header, port) is part of it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, TypeAlias

SLOT_S = 10.0
WINDOW_S = 900.0
MAX_EDGES = 10_000
MAX_CELLS = 60_000
"""Measured with 10,000 edges: 200 bytes each for connections, 400 with latencies."""
MAX_JOINED_S = 300.0
OVERFLOW = "overflow"

OPENED, CLOSED, FAILED, DENIED, SENT, RECEIVED, FIRST_BUCKET = range(7)
LIMIT = 1 << 62
"""Counts stop here: whoever sends nonsense spoils a number and nothing else."""
Cell: TypeAlias = "array[int]"
"""Counts in the order above; cells of requests go on with the buckets of their duration."""


class Edge(NamedTuple):
    """Who talks to whom, seen from where, and how.

    Attributes:
        reporter: `source`, `destination` or `waypoint`.
        path: `direct`, `hbone`, `passthrough`, or `waypoint` for requests.
        service, route: `<namespace>/<name>`; route with its rule, of requests only.
    """

    reporter: str
    path: str
    src_namespace: str
    src: str
    src_identity: str
    dst_namespace: str
    dst: str
    dst_identity: str
    service: str
    route: str
    secured: bool


@dataclass(slots=True)
class Slot:
    """What was counted from `start` to `end` (monotonic seconds)."""

    start: float
    end: float
    cells: dict[Edge, Cell] = field(default_factory=dict)


class TrafficWindow:
    """Counts of the last `WINDOW_S` seconds.

    Args:
        now: monotonic seconds.
    """

    def __init__(
        self,
        now: Callable[[], float],
        *,
        max_edges: int = MAX_EDGES,
        max_cells: int = MAX_CELLS,
    ) -> None:
        self._now = now
        self._max_edges = max_edges
        self._max_cells = max_cells
        self.started_at = self.complete_since = now()
        self._edges: dict[Edge, int] = {}
        """Every edge of any slot, and in how many slots it is."""
        self._slots: deque[Slot] = deque()
        self._current = Slot(self.started_at, self.started_at)
        self._cells = 0
        self.overflowed = 0

    def add(self, edge: Edge, counts: Sequence[int]) -> None:
        """Add counts (in the order of a cell) to an edge."""
        now = self._now()
        if now >= self._current.end:
            self._turn(now)
        cells = self._current.cells
        cell = cells.get(edge)
        if cell is None:
            cell = self._new_cell(edge, len(counts))
        if len(cell) < len(counts):
            cell.extend([0] * (len(counts) - len(cell)))
        for index, count in enumerate(counts):
            if count:
                cell[index] = max(0, min(cell[index] + count, LIMIT))

    def slots(self, seconds: float) -> list[Slot]:
        """The slots that reach into the last `seconds`, oldest first."""
        self._forget(self._now())
        since = self._now() - seconds
        return [slot for slot in self._slots if slot.end > since]

    @property
    def edges(self) -> int:
        """Edges in memory."""
        return len(self._edges)

    @property
    def cells(self) -> int:
        """Cells in memory."""
        return self._cells

    def _new_cell(self, edge: Edge, width: int) -> Cell:
        if edge not in self._edges and len(self._edges) >= self._max_edges:
            self.overflowed += 1
            edge = _overflow(edge)
            known = self._current.cells.get(edge)
            if known is not None:
                return known
        cell = self._current.cells[edge] = array("q", bytes(8 * max(width, FIRST_BUCKET)))
        self._edges[edge] = self._edges.get(edge, 0) + 1
        self._cells += 1
        if self._cells > self._max_cells:
            self._shrink()
        return cell

    def _turn(self, now: float) -> None:
        start = now - (now - self.started_at) % SLOT_S
        self._current = Slot(start, start + SLOT_S)
        self._slots.append(self._current)
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._slots and self._slots[0].end < now - WINDOW_S:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        slot = self._slots.popleft()
        self.complete_since = slot.end
        for edge in slot.cells:
            self._release(edge)

    def _release(self, edge: Edge) -> None:
        self._cells -= 1
        left = self._edges[edge] - 1
        if left:
            self._edges[edge] = left
        else:
            del self._edges[edge]

    def _shrink(self) -> None:
        """Join the oldest two slots that are short enough, or forget the oldest one."""
        for index, (older, newer) in enumerate(self._pairs()):
            if newer.end - older.start <= MAX_JOINED_S:
                self._join(older, newer)
                del self._slots[index + 1]
                return
        if len(self._slots) > 1:
            self._drop_oldest()

    def _pairs(self) -> Iterator[tuple[Slot, Slot]]:
        """Neighbours; the slot that is being counted into stays by itself."""
        closed = list(self._slots)[:-1]
        return pairwise(closed)

    def _join(self, older: Slot, newer: Slot) -> None:
        older.end = newer.end
        for edge, cell in newer.cells.items():
            known = older.cells.get(edge)
            if known is None:
                older.cells[edge] = cell
                continue
            add_cell(known, cell)
            self._release(edge)


def _overflow(edge: Edge) -> Edge:
    """Where the counts of an edge go that found no room."""
    return Edge(
        edge.reporter,
        path=edge.path,
        src_namespace=OVERFLOW,
        src=OVERFLOW,
        src_identity="",
        dst_namespace=OVERFLOW,
        dst=OVERFLOW,
        dst_identity="",
        service="",
        route="",
        secured=edge.secured,
    )


def add_cell(total: MutableSequence[int], cell: Sequence[int]) -> None:
    """Add a cell to another in place."""
    if len(total) < len(cell):
        total.extend([0] * (len(cell) - len(total)))
    for index, count in enumerate(cell):
        total[index] = min(total[index] + count, LIMIT)
