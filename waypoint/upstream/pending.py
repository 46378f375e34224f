"""Requests on their way to a connection, and the connections that count."""

from __future__ import annotations

from typing import Protocol

from mesh.errors import LocalProtocolError
from mesh.http1.message import RequestHead
from mesh.resilience.circuit import CircuitBreaker, Resource
from waypoint.contract import ResponseSink, UpstreamStream


class Taker(ResponseSink, Protocol):
    """Who wants to send a request; the exchange."""

    def connected(self, stream: UpstreamStream) -> None: ...
    def flush_request(self) -> None: ...
    def unsendable(self, error: LocalProtocolError) -> None: ...


class Pending:
    """A request that waits for its connection, and where that is limited, is counted."""

    __slots__ = ("breaker", "head", "taker")

    def __init__(
        self, head: RequestHead, taker: Taker, breaker: CircuitBreaker | None = None
    ) -> None:
        self.head = head
        self.taker: Taker | None = taker
        self.breaker = breaker

    def take(self) -> Taker | None:
        """End the wait: who waited, or None if nobody does any more."""
        taker, self.taker = self.taker, None
        if taker is not None and self.breaker is not None:
            self.breaker.release(Resource.PENDING)
        return taker

    def cancel(self) -> None:
        """Nobody waits any more; the connection will serve another request."""
        self.take()


class Slot:
    """The count of one connection, from its dial to its end."""

    __slots__ = ("_breaker", "_endpoint", "_held")

    def __init__(self, breaker: CircuitBreaker | None, endpoint: str = "") -> None:
        self._breaker = breaker
        self._endpoint = endpoint
        self._held = True

    def release(self) -> bool:
        """Give it back; True the first time."""
        held, self._held = self._held, False
        if held and self._breaker is not None:
            self._breaker.disconnect(self._endpoint)
        return held
