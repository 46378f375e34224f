"""Join two plain sockets: half-close, backpressure, resets and byte counts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from mesh.tunnel.contract import End, EndReason, RelayEvents
from mesh.tunnel.port import Port, describe_os_error


class _Side:
    """One socket of a relay and the direction that starts at it."""

    __slots__ = ("_buffer", "_relay", "ended", "moved", "other", "port", "reset_reason")

    def __init__(
        self,
        relay: PlainRelay,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        buffer: memoryview,
        reset_reason: EndReason,
    ) -> None:
        self._relay = relay
        self._buffer = buffer
        self.port = Port(loop, sock, self)
        self.reset_reason = reset_reason
        self.moved = 0
        """Bytes written to this socket."""
        self.ended = False
        """This socket sent its FIN."""
        self.other: _Side = self

    def port_readable(self) -> None:
        try:
            count = self.port.receive_into(self._buffer)
        except OSError as error:
            self.port_failed(error)
            return
        if count > 0:
            self.other.deliver(self._buffer[:count])
        elif count == 0:
            self.ended = True
            self.port.pause()
            self.other.finish()

    def deliver(self, data: memoryview) -> None:
        try:
            self.moved += self.port.write(data)
        except OSError as error:
            self.port_failed(error)
            return
        if self.port.backlog:
            self.other.port.pause()

    def finish(self) -> None:
        try:
            self.port.finish()
        except OSError as error:
            self.port_failed(error)
            return
        self._relay.check_done()

    def port_wrote(self, count: int) -> None:
        self.moved += count
        if self.port.backlog:
            return
        if self.other.ended:
            self._relay.check_done()
        else:
            self.other.port.resume()

    def port_failed(self, error: OSError) -> None:
        self._relay.end(self.reset_reason, describe_os_error(error))


class PlainRelay:
    """Two sockets joined to each other (`mesh.tunnel.contract.Relay`)."""

    __slots__ = ("_done", "_events", "_first", "_loop", "_on_end", "_second")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: tuple[socket.socket, socket.socket],
        events: RelayEvents,
        buffer: memoryview,
        on_end: Callable[[PlainRelay], None],
    ) -> None:
        self._loop = loop
        self._events = events
        self._on_end = on_end
        self._done = False
        self._first = _Side(self, loop, sockets[0], buffer, EndReason.APPLICATION_RESET)
        self._second = _Side(self, loop, sockets[1], buffer, EndReason.PEER_RESET)
        self._first.other, self._second.other = self._second, self._first
        self._first.port.resume()
        self._second.port.resume()

    @property
    def bytes_out(self) -> int:
        return self._second.moved

    @property
    def bytes_in(self) -> int:
        return self._first.moved

    def abort(self, detail: str = "") -> None:
        self.end(EndReason.ABORTED, detail)

    def check_done(self) -> None:
        """End in order once both sides sent FIN and everything was passed on."""
        first, second = self._first, self._second
        if first.ended and second.ended and not first.port.backlog and not second.port.backlog:
            self.end(EndReason.DONE, "")

    def end(self, reason: EndReason, detail: str) -> None:
        if self._done:
            return
        self._done = True
        for side in (self._first, self._second):
            if reason is EndReason.DONE:
                side.port.close()
            else:
                side.port.reset()
        end = End(reason=reason, bytes_out=self.bytes_out, bytes_in=self.bytes_in, detail=detail)
        # Never from inside the call that caused it: `abort()` may be running.
        self._loop.call_soon(self._report, end)

    def _report(self, end: End) -> None:
        self._on_end(self)
        self._events.relay_closed(end)
