"""The holder's end of one client's channel: its role, and packets that wait for room."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack

from agent.holder.protocol import MAX_REQUEST_BYTES, HolderLostError, Role
from agent.holder.wire import Packet, receive_packet, send_packet

MAX_WAITING = 4096
"""Packets a client may leave unread: one event for every pod of a very full node, many times."""


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
        """The next packet, or None at the end. Raises OSError."""
        return receive_packet(self._sock, MAX_REQUEST_BYTES)

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send a packet now, or as soon as there is room; the caller keeps and may close `fds`.

        Raises OSError if the channel is gone, `HolderLostError` if its client stopped reading.
        """
        if not self._waiting:
            try:
                send_packet(self._sock, data, fds)
                return
            except BlockingIOError:
                pass
        if len(self._waiting) >= MAX_WAITING:
            raise HolderLostError("the client does not read its packets")
        self._waiting.append((data, _duplicate(fds)))

    def flush(self) -> None:
        """Send what waits, as far as there is room. Raises OSError if the channel is gone."""
        while self._waiting:
            data, fds = self._waiting[0]
            try:
                send_packet(self._sock, data, fds)
            except BlockingIOError:
                return
            self._waiting.popleft()
            _close(fds)

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
