"""When the holder must refuse connections itself, because no worker is there to take them.

Connections wait in the listeners' queues while workers restart. If none comes back within the
grace period, a client must fail fast instead of hanging. Pure: `now` is monotonic seconds.
"""

from __future__ import annotations


class OrphanRule:
    """Counts worker channels and says whether the listeners are orphans."""

    def __init__(self, grace_s: float, now: float) -> None:
        self._grace_s = grace_s
        self._workers = 0
        self._alone_since = now

    def worker_joined(self) -> None:
        self._workers += 1

    def worker_left(self, now: float) -> None:
        self._workers -= 1
        if self._workers == 0:
            self._alone_since = now

    def is_orphaned(self, now: float) -> bool:
        """Whether waiting connections are to be reset."""
        return self._workers == 0 and now >= self._alone_since + self._grace_s

    def deadline(self, now: float) -> float | None:
        """When `is_orphaned` turns true unless a worker joins; None if it is, or cannot."""
        if self._workers or self.is_orphaned(now):
            return None
        return self._alone_since + self._grace_s
