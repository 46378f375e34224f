"""Listeners on which the engine itself accepts: outbound ones, where it has lanes for them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

from agent.holder.protocol import ListenerName
from agent.ztunnel.near_lanes import redirected
from mesh.model.address import SocketAddress
from mesh.model.workload import WorkloadUid
from mesh.tunnel.lanes import Door, LaneEngine

log = logging.getLogger(__name__)

PAUSE_S = 1.0

Accepted = Callable[[WorkloadUid, socket.socket, SocketAddress, int | None], None]
_REDIRECTED = frozenset({ListenerName.OUTBOUND4, ListenerName.OUTBOUND6})


@dataclass(slots=True, eq=False)
class _PodDoor:
    """`DoorEvents` of one listener."""

    uid: WorkloadUid
    accepted: Accepted
    failed: Callable[[WorkloadUid, OSError], None]
    door: Door | None = None
    open: bool = True

    def door_accepted(self, sock: socket.socket, client_port: int, drawn: int | None) -> None:
        self.accepted(self.uid, sock, redirected(client_port), drawn)

    def door_failed(self, error: OSError) -> None:
        if self.open:
            self.failed(self.uid, error)


class Doors:
    """All doors of one worker.

    `accepted` takes what no lane takes; `group` numbers a pod's doors as its lanes do; `pod_closed`
    is told of pods that have gone.
    """

    def __init__(
        self,
        engine: LaneEngine | None,
        accepted: Accepted,
        group: Callable[[WorkloadUid], int],
        pod_closed: Callable[[WorkloadUid], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._engine = engine
        self._accepted = accepted
        self._group = group
        self.pod_closed = pod_closed
        self._doors: dict[WorkloadUid, dict[ListenerName, _PodDoor]] = {}

    def open(
        self,
        uid: WorkloadUid,
        name: ListenerName,
        listener: socket.socket,
        again: Callable[[WorkloadUid], None],
    ) -> bool:
        """Whether the engine accepts on this listener from now on. `again` is called a while after
        it could not any more."""
        if self._engine is None or name not in _REDIRECTED:
            return False
        doors = self._doors.setdefault(uid, {})
        if name in doors:
            return True

        def failed(uid: WorkloadUid, error: OSError) -> None:
            log.error("%s: accept failed: %s", uid, error)
            doors.pop(name, None)
            self._loop.call_later(PAUSE_S, again, uid)

        events = doors[name] = _PodDoor(uid, self._accepted, failed)
        events.door = self._engine.door(self._group(uid), listener, events)
        return True

    def close(self, uid: WorkloadUid) -> None:
        """Accept nothing for a pod any more."""
        for events in self._doors.pop(uid, {}).values():
            events.open = False
            if events.door is not None:
                events.door.close()
