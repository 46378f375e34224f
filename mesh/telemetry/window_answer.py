"""What agents and waypoints answer about the last minutes, as values."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.telemetry.denials import Denial, Denials
from mesh.telemetry.window import (
    CLOSED,
    DENIED,
    FAILED,
    FIRST_BUCKET,
    OPENED,
    RECEIVED,
    SENT,
    Cell,
    Edge,
    Slot,
    TrafficWindow,
    add_cell,
)

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One slot of an edge: when it began, how long it is, and what ended in it.

    Attributes:
        ago_s: seconds before the answer that it began.
    """

    ago_s: float
    span_s: float
    closed: int
    failed: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeTraffic:
    """One edge and its counts. `buckets`: durations of requests, empty for connections."""

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
    opened: int
    closed: int
    failed: int
    denied: int
    sent: int
    received: int
    buckets: tuple[int, ...] = ()
    points: tuple[Point, ...] = ()

    @property
    def is_requests(self) -> bool:
        """Whether requests were counted, not connections."""
        return self.reporter == "waypoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The last minutes as one node or waypoint saw them.

    Attributes:
        origin: `node/NAME` or `waypoint/NAMESPACE/NAME`.
        covered_s: how far the counts reach back; divide by it for rates.
        overflowed: events whose edge found no room.
    """

    schema_version: int = SCHEMA_VERSION
    origin: str
    asked_s: float
    covered_s: float
    edges: tuple[EdgeTraffic, ...] = ()
    denials: tuple[Denial, ...] = ()
    overflowed: int = 0


@dataclass(slots=True)
class _Sum:
    cell: list[int] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)


def answer(
    origin: str,
    window: TrafficWindow,
    denials: Denials,
    now: float,
    seconds: float,
    points: bool = False,
    about: str = "",
) -> Traffic:
    """Sum up the last `seconds`.

    `about`: only edges that touch this `<namespace>/<name>` or `<namespace>/`; `points`: with the
    course of each edge.
    """
    slots = window.slots(seconds)
    sums: dict[Edge, _Sum] = {}
    for slot in slots:
        for edge, cell in slot.cells.items():
            if about and not _touches(edge, about):
                continue
            total = sums.setdefault(edge, _Sum())
            add_cell(total.cell, cell)
            if points:
                total.points.append(_point(slot, cell, now))
    reach = max(seconds, now - slots[0].start) if slots else seconds
    reach = min(reach, now - window.complete_since)
    return Traffic(
        origin=origin,
        asked_s=seconds,
        covered_s=round(max(reach, 1.0), 1),
        edges=tuple(_edge(edge, total) for edge, total in sums.items()),
        denials=denials.latest(),
        overflowed=window.overflowed,
    )


def _touches(edge: Edge, about: str) -> bool:
    if about.endswith("/"):
        return about in (f"{edge.src_namespace}/", f"{edge.dst_namespace}/") or (
            edge.service.startswith(about)
        )
    names = (f"{edge.src_namespace}/{edge.src}", f"{edge.dst_namespace}/{edge.dst}", edge.service)
    return about in names


def _point(slot: Slot, cell: Cell, now: float) -> Point:
    return Point(
        ago_s=round(now - slot.start, 1),
        span_s=round(max(min(slot.end, now) - slot.start, 1.0), 1),
        closed=cell[CLOSED],
        failed=cell[FAILED],
        bytes=cell[SENT] + cell[RECEIVED],
    )


def _edge(edge: Edge, total: _Sum) -> EdgeTraffic:
    cell = total.cell
    return EdgeTraffic(
        reporter=str(edge.reporter),
        path=str(edge.path),
        src_namespace=edge.src_namespace,
        src=edge.src,
        src_identity=edge.src_identity,
        dst_namespace=edge.dst_namespace,
        dst=edge.dst,
        dst_identity=edge.dst_identity,
        service=edge.service,
        route=edge.route,
        secured=edge.secured,
        opened=cell[OPENED],
        closed=cell[CLOSED],
        failed=cell[FAILED],
        denied=cell[DENIED],
        sent=cell[SENT],
        received=cell[RECEIVED],
        buckets=tuple(cell[FIRST_BUCKET:]),
        points=tuple(total.points),
    )
