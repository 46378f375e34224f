"""Writes the access log: a thread of its own, so that a slow reader of it stops nobody else."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

MAX_BYTES = 16 << 20
"""Waiting to be written; what does not fit is counted."""
CLOSE_S = 2.0


class LineWriter:
    """Whoever makes it closes it.

    Args:
        write: takes text of whole lines; may block; an `OSError` counts them as dropped.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._bytes = 0
        self._dropped = 0
        self._thread = threading.Thread(target=self._drain, name="access-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written."""
        return self._dropped

    def put(self, text: str) -> None:
        """Write lines soon, or count them as dropped."""
        with self._lock:
            if self._bytes + len(text) > MAX_BYTES:
                self._dropped += text.count("\n")
                return
            self._bytes += len(text)
        self._waiting.put(text)

    def close(self) -> None:
        """Write what waits, for at most `CLOSE_S`: its reader may have stopped long ago."""
        self._waiting.put(None)
        self._thread.join(CLOSE_S)

    def _drain(self) -> None:
        while (text := self._waiting.get()) is not None:
            lost = 0
            try:
                self._write(text)
            except OSError:
                lost = text.count("\n")
            with self._lock:
                self._bytes -= len(text)
                self._dropped += lost
