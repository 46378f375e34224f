"""A connected socket on the event loop, without transport or stream objects.

Readiness callbacks instead of transports: a socket is adopted without a task, reads go into
buffers shared by every connection of the process (an idle connection holds none), what the kernel
accepted is known exactly, and a reset can be a reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Protocol

from mesh.tunnel.write_queue import WriteQueue

_LINGER_ZERO = struct.pack("ii", 1, 0)


class PortOwner(Protocol):
    def port_readable(self) -> None:
        """Bytes or the end of them can be read."""

    def port_wrote(self, count: int) -> None:
        """The kernel accepted `count` queued bytes."""

    def port_failed(self, error: OSError) -> None:
        """Writing queued bytes failed; the port is still to be closed."""


class Port:
    """Reads, writes, half-closes and closes one socket. Close it exactly once; later calls do
    nothing."""

    __slots__ = ("_closed", "_finishing", "_loop", "_owner", "_queue", "_reading", "_sock")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, owner: PortOwner
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._owner = owner
        self._queue: WriteQueue | None = None  # made when needed: most ports never wait
        self._reading = False
        self._finishing = False
        self._closed = False
        prepare_socket(sock)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def backlog(self) -> int:
        """Bytes accepted by `write()` but not by the kernel."""
        return len(self._queue) if self._queue is not None else 0

    def resume(self) -> None:
        """Report `port_readable` while there is something to read."""
        if not self._reading and not self._closed:
            self._reading = True
            self._loop.add_reader(self._sock, self._owner.port_readable)

    def pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock)

    def receive(self, limit: int) -> bytes | None:
        """Read once. None: nothing there now; empty: end of stream. Raises `OSError`."""
        try:
            return self._sock.recv(limit)
        except (BlockingIOError, InterruptedError):
            return None

    def receive_into(self, buffer: memoryview) -> int:
        """Read once into `buffer`. -1: nothing there now; 0: end. Raises `OSError`."""
        try:
            return self._sock.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return -1

    def write(self, data: bytes | memoryview) -> int:
        """Send or queue all of `data`; return what the kernel took at once. Raises `OSError`.

        A memoryview may be reused by the caller afterwards.
        """
        if self._closed or not data:
            return 0
        sent = 0
        if self._queue is None:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            if sent == len(data):
                return sent
            self._queue = WriteQueue()
            self._loop.add_writer(self._sock, self._writable)
        self._queue.append(bytes(data[sent:]) if sent or isinstance(data, memoryview) else data)
        return sent

    def finish(self) -> None:
        """Shut down the sending direction once everything queued was sent. Raises `OSError`."""
        if self._closed or self._finishing:
            return
        self._finishing = True
        if self._queue is None:
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close in order; what is queued is dropped."""
        if not self._closed:
            self._forget()
            self._sock.close()

    def reset(self) -> None:
        """Close with a TCP reset, so that the peer can't take it for an orderly end."""
        if not self._closed:
            self._forget()
            close_with_reset(self._sock)

    def _forget(self) -> None:
        self._closed = True
        self.pause()
        if self._queue is not None:
            self._loop.remove_writer(self._sock)
            self._queue = None

    def _writable(self) -> None:
        queue = self._queue
        if queue is None:
            return
        try:
            count = self._sock.sendmsg(queue.pieces())
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._owner.port_failed(error)
            return
        queue.advance(count)
        if not queue:
            self._loop.remove_writer(self._sock)
            self._queue = None
            if self._finishing and not self._shut_down():
                return
        self._owner.port_wrote(count)

    def _shut_down(self) -> bool:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._owner.port_failed(error)
            return False
        return True


def prepare_socket(sock: socket.socket) -> None:
    """Non-blocking, and without Nagle's delay where the family has one."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        # A socket the peer reset already refuses options; reading it will say why.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def close_with_reset(sock: socket.socket) -> None:
    """Close a socket so that TCP sends RST instead of FIN."""
    with contextlib.suppress(OSError):  # a dead socket refuses the option and needs none
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    sock.close()


def describe_os_error(error: OSError) -> str:
    return error.strerror or str(error)
