"""Who may still come in when a worker is busy.

The first half of a worker's capacity is anybody's, and costs no book-keeping. Requests beyond it
are counted by caller, and share the other half evenly (`mesh.resilience.fairness`): however many
one caller has, another one's first request is let in until there is no room at all.
"""

from __future__ import annotations

from collections.abc import Hashable

from mesh.model.request import RequestFlag
from mesh.resilience.fairness import Admission, FairShare
from waypoint.routing.plan import Reply


class FairGate:
    """The door of one worker. Requests are told apart by themselves, callers by identity."""

    def __init__(self, capacity: int) -> None:
        self.free = max(1, capacity // 2)
        self._shares: FairShare[Hashable] = FairShare(max(1, capacity - self.free), 0.0)
        self._inside: dict[object, Hashable] = {}
        self.refused = 0

    def admit(self, request: object, caller: Hashable) -> Reply | None:
        """Let in a request beyond the free half, or refuse it."""
        admission = self._shares.admit(caller)
        if admission is Admission.ADMITTED:
            self._inside[request] = caller
            return None
        self.refused += 1
        return Reply(
            status=503,
            text="overloaded",
            headers=[(b"retry-after", b"1")],
            flag=RequestFlag.OVERLOADED,
            details=f"overload[{admission}]",
        )

    def release(self, request: object) -> None:
        """End a request; harmless for one that was never counted."""
        if self._inside and request in self._inside:
            self._shares.release(self._inside.pop(request))
