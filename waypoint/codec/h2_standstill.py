"""Clients of HTTP/2 that let something stand still.

An answer that they do not take, a request that they do not go on with: each holds a stream of a
server. The portable engine does not tell which answers wait, so there only whole connections are
looked at.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mesh.http2.nghttp2 import Nghttp2Session

if TYPE_CHECKING:
    from waypoint.codec.h2_server import Http2Server
    from waypoint.limits import ProxyLimits

LOOKS = 4
"""So often within the shorter limit: what stands still is found a quarter of it late."""


class Standstill:
    """Looks at one connection from time to time, until it is stopped."""

    __slots__ = ("_limits", "_link", "_loop", "_moved_at", "_taken", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: ProxyLimits, link: Http2Server
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._link = link
        self._taken = 0
        self._moved_at = loop.time()
        self._timer = self._later()

    def stop(self) -> None:
        self._timer.cancel()

    def _later(self) -> asyncio.TimerHandle:
        shorter = min(self._limits.write_timeout_s, self._limits.body_timeout_s)
        return self._loop.call_later(shorter / LOOKS, self._look)

    def _look(self) -> None:
        self._timer = self._later()
        link, limits = self._link, self._limits
        now = self._loop.time()
        if self._reads_nothing(now):
            link.give_up()
            return
        session = link.session
        if isinstance(session, Nghttp2Session):
            for stream_id in session.stuck(now, limits.write_timeout_s):
                link.stuck(stream_id)
        for stream in link.streams():
            if stream.is_silent(now, limits.body_timeout_s):
                link.time_out(stream)
        if link.lane is not None:
            link.lane.recall_silent(link, now, limits.body_timeout_s)

    def _reads_nothing(self, now: float) -> bool:
        """Whether nothing of what is written has reached the client's kernel for so long."""
        waiting, taken = self._link.written()
        if not waiting or taken != self._taken:
            self._taken, self._moved_at = taken, now
        return now - self._moved_at >= self._limits.write_timeout_s
