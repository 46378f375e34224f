"""Lanes: decisions that an engine repeats by itself for connections that are all alike.

The first connection of its kind is decided, opened and recorded by Python. What was decided is then
laid down as a lane, and the engine carries the next ones without asking. Whoever laid it retires it
as soon as anything that the decision rests on has changed: from that moment on no connection takes
it. An engine without lanes is slower and nothing else (`TunnelEngine.lanes` is None).

Established connections are counted and told of as differences, at most every 0.1 s; single ones as
far as `TunnelSettings.records_per_s` allows. One that was refused is always told of.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from mesh.model.address import IPAddress, SocketAddress

if TYPE_CHECKING:  # the contract of engines names the one of lanes
    from mesh.tunnel.contract import Tunnel


class LaneEnd(StrEnum):
    """How a connection ended: five as `EndReason` has them; the last three were not established."""

    DONE = "done"
    APPLICATION_RESET = "application_reset"
    PEER_RESET = "peer_reset"
    TUNNEL_LOST = "tunnel_lost"
    ABORTED = "aborted"
    CUT = "cut"
    """Its lane was cut."""
    REFUSED = "refused"
    """The peer answered `status`."""
    FAILED = "failed"
    """The application could not be connected; the peer was told 503."""
    DENIED = "denied"
    """Its lane was cut while the application was being connected; the peer was told 401."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRecord:
    """One connection. Counts as in `mesh.tunnel.contract.End`.

    Attributes:
        end: None while it is open.
        client_port: of the application that dialled; 0 if a far lane was not told.
        began_at: seconds of the monotonic clock.
    """

    end: LaneEnd | None
    established: bool
    status: int
    detail: str
    bytes_out: int
    bytes_in: int
    client_port: int
    began_at: float
    lasted_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneTally:
    """What established connections added since the last tally.

    Attributes:
        sent: bytes from source to destination, those of open connections included.
        untold: of the ended ones, those that no record tells of.
    """

    opened: int
    ended: Mapping[LaneEnd, int]
    sent: int
    received: int
    untold: int


class LaneEvents(Protocol):
    """Reports of one lane, to whoever laid it. They come on the event loop."""

    def lane_tally(self, tally: LaneTally) -> None: ...
    def lane_ended(self, record: LaneRecord) -> None: ...
    def lane_returned(self, sock: socket.socket, client_port: int) -> None:
        """Near lanes: no tunnel took this connection. It was not touched."""

    def lane_gone(self) -> None:
        """It was retired, and its last connection has ended. Last event."""


class Lane(Protocol):
    def retire(self) -> None:
        """Take no more connections, from this moment on. Idempotent."""

    def cut(self, detail: str) -> None:
        """Retire it and end the connections it has."""


class DoorEvents(Protocol):
    def door_accepted(self, sock: socket.socket, client_port: int, drawn: int | None) -> None:
        """A connection that no lane takes. `drawn`: the endpoint that the engine chose for it among
        `NearRoute.endpoints`, if it had a choice: its lane is not laid, or has no room."""

    def door_failed(self, error: OSError) -> None:
        """It accepts no more; the door is closed. Last event."""


class Door(Protocol):
    """A listening socket whose connections were redirected to it."""

    def close(self) -> None:
        """Idempotent."""


class StockEvents(Protocol):
    def stock_wanted(self) -> None:
        """It runs low. Not said again before `add()`."""


class Stock(Protocol):
    """Sockets made in one namespace, for connections to its applications."""

    def add(self, sockets: Sequence[socket.socket]) -> None:
        """Give it more, or none if none can be had now. They are the stock's from here on."""

    def clear(self) -> None:
        """Close what is in it."""

    def drop(self) -> None:
        """The same, for good. Idempotent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearRoute:
    """From an application to a tunnel.

    Attributes:
        group: whose doors (a number that the caller chose).
        dialled: the original destination.
        endpoint: which of the `endpoints` between which there is a choice (from 0). The engine
            takes the less loaded of two random ones; load is open streams to the peer's address.
        tunnels: the first of them with less than `limit` streams takes the connection.
        head, tail: the CONNECT's fields, names and values joined by NUL, before and after the
            digits of the client's port.
        fields: how many fields that makes.
    """

    group: int
    dialled: SocketAddress
    endpoint: int
    endpoints: int
    tunnels: Sequence[Tunnel]
    limit: int
    head: bytes
    tail: bytes
    fields: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FarRoute:
    """From a tunnel's stream to an application.

    Attributes:
        authority: of the CONNECT, as it was sent.
        bind: the address that the application is to see, if it is not its own.
        client: what `forwarded` calls the client, without the port.
    """

    tunnel: Tunnel
    authority: bytes
    target: SocketAddress
    bind: IPAddress | None
    stock: Stock
    client: bytes


class LaneEngine(Protocol):
    """What an engine with lanes offers."""

    @property
    def connections(self) -> int:
        """Those that have not ended."""

    def door(self, group: int, listener: socket.socket, events: DoorEvents) -> Door:
        """Accept on a copy of `listener` from now on."""

    def near(self, route: NearRoute, events: LaneEvents) -> Lane | None:
        """None if the engine cannot carry it."""

    def far(self, route: FarRoute, events: LaneEvents) -> Lane | None:
        """None if the engine cannot carry it."""

    def stock(self, events: StockEvents) -> Stock: ...

    async def listed(self, limit: int) -> list[tuple[LaneEvents, LaneRecord]]:
        """Connections that are open, at most `limit`, with whoever laid their lane."""

    def tell(self, records_per_s: float) -> None:
        """Tell of single connections as far as this allows from now on, in place of the setting."""
