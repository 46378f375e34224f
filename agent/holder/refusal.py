"""Reset the connections that wait on listeners nobody serves."""

from __future__ import annotations

import selectors
import socket
import struct
from collections.abc import Iterable

REFUSED_PER_TURN = 64
"""Connections reset per listener and turn of the loop, so that channels are served in between."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with 0 seconds: close sends RST."""


class Refusal:
    """While active, accepts on the listeners it was given and resets what it accepts."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._listeners: list[socket.socket] = []
        self._active = False

    @property
    def is_active(self) -> bool:
        return self._active

    def start(self, listeners: Iterable[socket.socket]) -> None:
        self._active = True
        for listener in listeners:
            self._listeners.append(listener)
            self._selector.register(
                listener, selectors.EVENT_READ, lambda listener=listener: _reset_waiting(listener)
            )

    def stop(self) -> None:
        """Must come before a listener is closed: copies elsewhere would keep it in epoll."""
        self._active = False
        while self._listeners:
            self._selector.unregister(self._listeners.pop())


def _reset_waiting(listener: socket.socket) -> None:
    for _ in range(REFUSED_PER_TURN):
        try:
            sock, _ = listener.accept()
        except OSError:
            # Nothing left, or the client was faster: either way the next turn sees what remains.
            return
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
