"""How far a peer may send ahead on each stream of a tunnel. Pure bookkeeping.

Streams begin with a window so small that all of them together fit into the connection's: one whose
application does not read never takes the others' credit. Those that move get more of what is left
over. The native engine does the same (`native/stream.c`).
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.tunnel.contract import TunnelSettings

_FIRST_BYTES = 65_535
"""The protocol's own default (RFC 9113 §6.5.2)."""


def first_window(settings: TunnelSettings) -> int:
    """A stream's window before it has moved anything, in bytes."""
    return min(_FIRST_BYTES, settings.stream_window_bytes)


@dataclass(slots=True)
class StreamWindow:
    """One stream's share."""

    size: int
    spent: int = 0
    """Bytes of it, since it was widened last."""


class Windows:
    """The windows of one tunnel's streams."""

    def __init__(self, settings: TunnelSettings) -> None:
        self._first = first_window(settings)
        self._limit = settings.stream_window_bytes
        reserved = settings.max_concurrent_streams * self._first
        self._spare = max(0, settings.connection_window_bytes - reserved)

    def open(self) -> StreamWindow:
        """A stream begins."""
        return StreamWindow(self._first)

    def consumed(self, window: StreamWindow, count: int) -> int:
        """The application took `count` bytes: by how much to widen the window, mostly 0."""
        window.spent += count
        if window.spent < window.size:
            return 0
        more = min(window.size, self._limit - window.size, self._spare)
        window.spent = 0
        window.size += more
        self._spare -= more
        return more

    def close(self, window: StreamWindow) -> None:
        """A stream ended: its share is the others'. Idempotent."""
        self._spare += max(0, window.size - self._first)
        window.size = self._first
