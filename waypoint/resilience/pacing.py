"""Bandwidth limits on the bodies of one exchange.

Nothing is buffered for it: what was read is passed on, and then the reader of that side pauses for
as long as those bytes take at the allowed rate. The loop is never blocked.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mesh.resilience.bandwidth import Pacer

if TYPE_CHECKING:
    from waypoint.exchange.exchange import Exchange
    from waypoint.exchange.exchange_host import ExchangeHost
    from waypoint.resilience.protection import Paces


class _Side:
    """One direction: pauses for the pace, and for a peer that reads slowly."""

    __slots__ = ("peer", "timer")

    def __init__(self) -> None:
        self.peer = False
        self.timer: asyncio.TimerHandle | None = None

    @property
    def held(self) -> bool:
        return self.peer or self.timer is not None


class Pacing:
    """See the module."""

    __slots__ = ("_exchange", "_host", "_paces", "_request", "_response")

    def __init__(self, host: ExchangeHost, exchange: Exchange, paces: Paces) -> None:
        self._host = host
        self._exchange = exchange
        self._paces = paces
        self._request = _Side()
        self._response = _Side()

    def request_passed(self, size: int) -> None:
        """Bytes of the request's body went on."""
        self._passed(self._request, self._paces.request, size)

    def response_passed(self, size: int) -> None:
        """Bytes of the response's body went on."""
        self._passed(self._response, self._paces.response, size)

    def holds_request(self, blocked: bool) -> bool:
        """Whether the client's bytes wait, now that the server is (not) blocked."""
        self._request.peer = blocked
        return self._request.held

    def holds_response(self, blocked: bool) -> bool:
        """Whether the server's bytes wait, now that the client is (not) blocked."""
        self._response.peer = blocked
        return self._response.held

    def _passed(self, side: _Side, pacer: Pacer | None, size: int) -> None:
        pause_s = pacer.pass_on(size, self._host.now()) if pacer is not None else 0.0
        if not pause_s:
            return
        if side.timer is not None:
            side.timer.cancel()
        side.timer = self._host.loop.call_later(pause_s, self._go_on, side)
        self._tell(side)

    def _go_on(self, side: _Side) -> None:
        side.timer = None
        self._tell(side)

    def _tell(self, side: _Side) -> None:
        if side is self._request:
            self._exchange.upstream_blocked(side.peer)
        else:
            self._exchange.client_blocked(side.peer)

    def close(self) -> None:
        """The exchange is over; the client's connection goes on at its own pace."""
        for side in (self._request, self._response):
            if side.timer is not None:
                side.timer.cancel()
                side.timer = None
        if self._paces.request is not None:
            self._exchange.upstream_blocked(self._request.peer)
