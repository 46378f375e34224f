"""Endpoints as the data path sees them: load, idle connections, and the choice between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import Protocol

from mesh.http1.message import RequestHead
from mesh.model.address import SocketAddress
from mesh.model.connection import Party
from mesh.model.identity import SpiffeId
from waypoint.contract import ResponseSink, UpstreamStream
from waypoint.upstream.connect_tls import TlsPeer
from waypoint.upstream.pending import Pending


class Speaks(Enum):
    """HTTP version towards an endpoint."""

    HTTP1 = auto()
    HTTP2 = auto()
    AS_CLIENT = auto()
    """The one that the client chose: nothing says what a workload's own port takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetKey:
    """What makes connections to an endpoint exchangeable.

    Attributes:
        tunnel: where its HBONE listener is; None for an endpoint outside the mesh.
        expected: identities it may prove.
        tls: spoken inside of that; None = not at all.
    """

    address: SocketAddress
    tunnel: SocketAddress | None
    expected: frozenset[SpiffeId]
    tls: TlsPeer | None = None


class Elsewhere(Protocol):
    """Another part of the worker that sends requests to an endpoint (`waypoint.lane`)."""

    @property
    def active(self) -> int: ...
    def tell(self, active: int) -> None:
        """How many are ours."""


class Client(Protocol):
    """A connection to an endpoint that can take requests."""

    idle_since: float

    @property
    def is_open(self) -> bool: ...
    def close(self) -> None: ...


class Target:
    """One endpoint of the present snapshot.

    Attributes:
        elsewhere: who else sends requests to it.
        connections: to it, dials included.
        weight, node, zone: for the choice between endpoints.
        waiting: requests that may not dial, for its next free connection.
    """

    __slots__ = (
        "__weakref__", "_active", "connections", "dst", "elsewhere", "idle", "key", "multiplexed",
        "node", "waiting", "weight", "zone",
    )  # fmt: skip

    def __init__(self, key: TargetKey, dst: Party) -> None:
        self.key = key
        self.dst = dst
        self._active = 0
        self.elsewhere: list[Elsewhere] = []
        self.connections = 0
        self.weight = 1
        self.node = self.zone = ""
        self.waiting: deque[Pending] = deque()
        self.idle: list[Http1Idle] = []
        self.multiplexed: list[MultiplexedClient] = []

    @property
    def active(self) -> int:
        """Requests under way here."""
        return self._active

    @active.setter
    def active(self, count: int) -> None:
        self._active = count
        for other in self.elsewhere:
            other.tell(count)

    @property
    def load(self) -> int:
        """Requests under way, those of others included."""
        return self._active + sum([other.active for other in self.elsewhere])


class Http1Idle(Client, Protocol):
    """A connection that takes one request at a time."""

    def start(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream: ...


class MultiplexedClient(Client, Protocol):
    """A connection that takes many."""

    @property
    def can_open(self) -> bool: ...

    is_settled: bool

    @property
    def takes_upgrades(self) -> bool: ...
    @property
    def can_serve(self) -> bool:
        """Whether it takes requests, now or once a stream is free."""

    @property
    def open_streams(self) -> int: ...
    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The ready endpoints of one service port, or the one endpoint of a workload's address."""

    name: str
    targets: tuple[Target, ...]
    speaks: Speaks


def choose(targets: Sequence[Target], random: Random, avoid: Target | None) -> Target | None:
    """Less loaded of two at random, not the one that just failed if there is another."""
    if not targets:
        return None
    if len(targets) == 1:
        return targets[0]
    if avoid is not None:
        targets = [target for target in targets if target is not avoid]
        if len(targets) == 1:
            return targets[0]
    count = len(targets)
    first = int(random.random() * count)
    second = int(random.random() * (count - 1))
    if second >= first:
        second += 1
    one, other = targets[first], targets[second]
    return other if other.load < one.load else one
