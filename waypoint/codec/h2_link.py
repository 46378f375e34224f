"""A session on a transport: what both sides of HTTP/2 share."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import cast

from mesh.errors import RemoteProtocolError
from mesh.http2.contract import Event, SessionSettings
from mesh.http2.nghttp2 import Nghttp2Session
from mesh.http2.select import new_session
from waypoint.codec.h2_lane_seam import SessionLane
from waypoint.limits import ProxyLimits

_OUTPUT_BYTES = 128 * 1024
_AHEAD_BYTES = 32 << 20
"""What the streams of one connection may hold before they wait for each other: all of them at
once hold about as much as so many connections of HTTP/1.1."""
NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL = 0x0, 0x2, 0x7, 0x8  # RFC 9113 §7


def session_settings(limits: ProxyLimits, *, client: bool) -> SessionSettings:
    """Windows that keep one stream busy over a tunnel without holding much for a slow one."""
    return SessionSettings(
        client=client,
        stream_window_bytes=1 << 20,
        connection_window_bytes=4 << 20,
        ahead_bytes=_AHEAD_BYTES,
        max_frame_bytes=64 * 1024,
        max_header_list_bytes=limits.message.head_bytes,
        max_concurrent_streams=limits.max_streams,
        extended_connect=not client,
    )


class Http2Link(asyncio.Protocol):
    """Moves bytes between a transport and a session; subclasses handle events."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: ProxyLimits, *, client: bool
    ) -> None:
        self._loop = loop
        self._limits = limits
        self.session = new_session(session_settings(limits, client=client))
        session = self.session
        self._take: Callable[[int], tuple[bytes | memoryview, list[Event]]]
        self._take = (
            session.take_buffer if isinstance(session, Nghttp2Session) else session.take_output
        )
        self._transport: asyncio.Transport | None = None
        self._write_blocked = False
        self._written = 0
        self._flush_scheduled = False
        self.heard_at = loop.time()
        self.lane: SessionLane | None = None
        """Moves requests between sessions without these; set by itself."""

    @abstractmethod
    def handle(self, event: Event) -> None:
        """One event of the session."""

    @abstractmethod
    def lost(self, detail: str) -> None:
        """The connection is over; told once."""

    @abstractmethod
    def batch_over(self) -> None:
        """All events of one read were handled."""

    @property
    @abstractmethod
    def is_ending(self) -> bool:
        """To be closed as soon as no stream is left."""

    @abstractmethod
    def flushed(self) -> None:
        """What can be sent now was."""

    @abstractmethod
    def after_lane(self) -> None:
        """The lane has used the connection; streams may have ended."""

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface without the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._limits.high_water_bytes)
        self.flush_now()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        try:
            events = self.session.receive(data)
        except RemoteProtocolError as error:
            self.flush_now()
            self.close()
            self._lose(str(error))
            return
        lane = self.lane
        if lane is not None:
            lane.flush_soon()
            if not events and not self.is_ending:
                return
        for event in events:
            self.handle(event)
        self.batch_over()
        self.flush_now()

    def connection_lost(self, error: Exception | None) -> None:
        self._lose(str(error or "connection closed"))

    def _lose(self, detail: str) -> None:
        if self._transport is not None:
            self._transport = None
            if self.lane is not None:
                self.lane.leave(self)
            self.lost(detail)

    def pause_writing(self) -> None:
        self._write_blocked = True

    def resume_writing(self) -> None:
        self._write_blocked = False
        self.flush_now()

    def schedule_flush(self) -> None:
        """Send what the session has at the end of this turn of the loop."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self.flush_now)

    def flush_now(self) -> None:
        self._flush_scheduled = False
        while self._transport is not None and not self._write_blocked:
            out, events = self._take(_OUTPUT_BYTES)
            if out:
                self._transport.write(out)
                self._written += len(out)
            for event in events:
                self.handle(event)
            if not events and len(out) < _OUTPUT_BYTES:
                break
        if self.lane is not None:
            self.lane.flushed(self)
        self.flushed()

    def written(self) -> tuple[int, int]:
        """Bytes that wait for the peer's kernel, and those that it took."""
        waiting = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return waiting, self._written - waiting

    def close(self) -> None:
        """Close once everything written is sent."""
        if self._transport is not None:
            self._transport.close()
