"""Pacing a body to so many bytes per second, without timers or threads of its own."""

from __future__ import annotations

from collections.abc import Callable

# A pause shorter than this is not worth a timer; it is made up for by the next one.
_GRAIN_S = 0.005


class Pacer:
    """Spreads chunks over time; streams that share a limit share the pacer.

    Args:
        shared: says how far ahead of the clock a number of bytes is, where several processes have
            one pace.
    """

    __slots__ = ("_bytes_per_s", "_free_at", "_shared")

    def __init__(
        self, bytes_per_s: int, now: float, shared: Callable[[int, float], float] | None = None
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = now
        self._shared = shared

    def pass_on(self, size: int, now: float) -> float:
        """Account for a chunk that is passed on now; how many seconds to read no more.

        The chunk itself is not held back: what was read must not be buffered. An idle time
        gives no credit, so that a burst after it is one chunk.
        """
        if self._shared is not None:
            pause = self._shared(size, now)
        else:
            self._free_at = max(self._free_at, now) + size / self._bytes_per_s
            pause = self._free_at - now
        return pause if pause >= _GRAIN_S else 0.0
