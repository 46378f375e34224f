"""The one seam between what is counted for metrics and the window of the last minutes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mesh.model.connection import (
    ConnectionRecord,
    Party,
    Path,
    Reporter,
    ResponseFlag,
)
from mesh.telemetry.denials import Denial, Denials
from mesh.telemetry.window import Edge, TrafficWindow
from mesh.telemetry.window_answer import Traffic, answer

NO_FAILURE = frozenset({ResponseFlag.NONE, ResponseFlag.DOWNSTREAM_CLOSED, ResponseFlag.DRAIN})
_OPENED = (1,)


class Connected(Protocol):
    """What an edge is made of; a connection that opened and one that ended both have it."""

    @property
    def reporter(self) -> Reporter: ...
    @property
    def path(self) -> Path: ...
    @property
    def src(self) -> Party: ...
    @property
    def dst(self) -> Party: ...
    @property
    def service(self) -> str: ...


class RecentTraffic:
    """Counts of the last minutes, and the latest denials, of one node or waypoint.

    Args:
        now: monotonic seconds; clock: seconds since the epoch.
    """

    def __init__(
        self, origin: str, *, now: Callable[[], float], clock: Callable[[], float]
    ) -> None:
        self._origin = origin
        self._now = now
        self.window = TrafficWindow(now)
        self.denials = Denials(clock)

    def opened(self, connection: Connected) -> None:
        """Count a connection that was accepted."""
        self.window.add(edge_of(connection), _OPENED)

    def record(self, record: ConnectionRecord, *, also_opened: bool = False) -> None:
        """Count a connection that ended, failed or was refused."""
        denied = record.flag is ResponseFlag.DENY
        self.window.add(
            edge_of(record),
            (
                also_opened,
                1,
                record.flag not in NO_FAILURE,
                denied,
                record.bytes_sent,
                record.bytes_received,
            ),
        )
        if denied:
            self.denials.add(_denial(record))

    def tally(self, connection: Connected, counts: Sequence[int]) -> None:
        """Add connections that were counted elsewhere, in the order of `record`."""
        self.window.add(edge_of(connection), counts)

    def requests(self, edge: Edge, counts: Sequence[int]) -> None:
        """Add requests that a worker tallied."""
        self.window.add(edge, counts)

    def answer(self, seconds: float, *, points: bool = False, about: str = "") -> Traffic:
        """See `mesh.telemetry.window_answer.answer`."""
        return answer(self._origin, self.window, self.denials, self._now(), seconds, points, about)


def edge_of(connection: Connected) -> Edge:
    """The edge that a connection belongs to. Direct ones never leave the node: the kernel vouches
    for both identities, so they are secured without a tunnel."""
    src, dst, path = connection.src, connection.dst, connection.path
    return Edge(
        connection.reporter,
        path,
        src.namespace,
        workload_name(src),
        src.identity,
        dst.namespace,
        workload_name(dst),
        dst.identity,
        connection.service,
        "",
        path is not Path.PASSTHROUGH and bool(src.identity),
    )


def workload_name(party: Party) -> str:
    """The application, as the metric label `workload` has it."""
    if party.app_name and party.app_name != "unknown":
        return party.app_name
    return party.name


def party_name(party: Party) -> str:
    """`<namespace>/<workload>`, empty where unknown."""
    name = workload_name(party)
    return f"{party.namespace}/{name}" if name else party.identity


def _denial(record: ConnectionRecord) -> Denial:
    return Denial(
        reporter=record.reporter,
        src=party_name(record.src),
        src_identity=record.src.identity,
        dst=party_name(record.dst),
        service=record.service,
        policy=record.policy,
        reason=record.detail,
        example=f"{record.src_addr} to {record.dst_addr}",
        count=1,
        last_at=0.0,
    )
