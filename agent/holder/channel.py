"""The holder's end of one client's channel: its role, and packets that wait for room."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack

from agent.holder.protocol import MAX_REQUEST_BYTES, Role
from agent.holder.wire import Packet, receive_packet, send_packet
from mesh.errors import MeshnodeError

MAX_WAITING = 4096
"""Packets a client may leave unread: one event for every pod of a very full node, many times."""


class ChannelLostError(MeshnodeError):
    """This client cannot be served any more; drop its channel."""


class Channel:
    """One client. Owns the socket and the descriptors of waiting packets."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self.role = Role.NODE
        self.watching = False

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def is_closed(self) -> bool:
        return self._sock.fileno() < 0

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def receive(self) -> Packet | None:
        """The next packet, or None at the end. Raises `BlockingIOError` and `ChannelLostError`."""
        try:
            return receive_packet(self._sock, MAX_REQUEST_BYTES)
        except BlockingIOError:
            raise
        except OSError as error:
            raise ChannelLostError(f"its client is gone: {error}") from error

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a packet now, or as soon as there is room; the caller keeps and may close `fds`.

        Raises `ChannelLostError` if the channel is gone or its client stopped reading.
        """
        if not self._waiting and self._send_now(data, fds):
            return
        if len(self._waiting) >= MAX_WAITING:
            raise ChannelLostError("the client does not read its packets")
        try:
            self._waiting.append((data, _duplicate(fds)))
        except OSError as error:
            raise ChannelLostError(f"a packet for it was lost: {error}") from error

    def flush(self) -> None:
        """Send what waits, as far as there is room. Raises `ChannelLostError`."""
        while self._waiting and self._send_now(*self._waiting[0]):
            _close(self._waiting.popleft()[1])

    def _send_now(self, data: bytes, fds: Sequence[int]) -> bool:
        """False if there is no room."""
        try:
            send_packet(self._sock, data, fds)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ChannelLostError(f"its client is gone: {error}") from error
        return True

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()
        while self._waiting:
            _close(self._waiting.popleft()[1])


def _duplicate(fds: Sequence[int]) -> list[int]:
    with ExitStack() as undo:
        copies = []
        for fd in fds:
            copies.append(os.dup(fd))
            undo.callback(os.close, copies[-1])
        undo.pop_all()
        return copies


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
