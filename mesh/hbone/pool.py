"""Which tunnel an outbound connection uses. Bookkeeping only: dials nothing.

One pool per process. Tunnels are shared by connections of one workload to one peer (`PoolKey`);
a tunnel takes at most 100 streams (the de-facto limit of HBONE clients), then another is dialled.
While a tunnel is being dialled, connections wait for it instead of dialling again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mesh.model.address import SocketAddress
from mesh.model.identity import SpiffeId
from mesh.model.workload import WorkloadUid
from mesh.tunnel.contract import Tunnel

STREAMS_PER_TUNNEL = 100
IDLE_TIMEOUT_S = 300.0
W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class PoolKey:
    """Connections with equal keys may share a tunnel.

    The workload is part of it because a tunnel's socket lives in that workload's namespace.
    """

    source: WorkloadUid
    identity: SpiffeId
    peer: SocketAddress
    expected: frozenset[SpiffeId]


@dataclass(slots=True)
class _Held:
    """What is known of a tunnel: the end of the certificate that it was made with (epoch s), and
    when it was last seen in use (monotonic s)."""

    expires_at: float
    used_s: float


@dataclass(slots=True)
class _Line(Generic[W]):
    """Tunnels and waiting connections of one key."""

    tunnels: dict[Tunnel, _Held] = field(default_factory=dict)
    waiting: deque[W] = field(default_factory=deque)
    dialling: int = 0


class TunnelPool(Generic[W]):
    """Hands out tunnels; `W` is whatever waits for one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lines: dict[PoolKey, _Line[W]] = {}

    def take(self, key: PoolKey) -> Tunnel | None:
        """The fullest tunnel that can still take a stream, or None.

        The fullest, so that spare tunnels run empty and can be closed.
        """
        line = self._lines.get(key)
        if line is None:
            return None
        fullest = next(iter(self.usable(key)), None)
        if fullest is not None:
            line.tunnels[fullest].used_s = self._clock()
        return fullest

    def usable(self, key: PoolKey) -> list[Tunnel]:
        """Tunnels that can still take a stream, the fullest first."""
        line = self._lines.get(key)
        if line is None:
            return []
        usable = [t for t in line.tunnels if t.can_open and t.active_streams < STREAMS_PER_TUNNEL]
        return sorted(usable, key=lambda t: t.active_streams, reverse=True)

    def used(self, key: PoolKey) -> None:
        """Streams were opened that `take()` does not know of: the fullest tunnel is not idle."""
        self.take(key)

    def wait(self, key: PoolKey, waiter: W) -> bool:
        """Queue a connection; True if the caller has to dial another tunnel for it."""
        line = self._lines.setdefault(key, _Line())
        line.waiting.append(waiter)
        if len(line.waiting) <= line.dialling * STREAMS_PER_TUNNEL:
            return False
        line.dialling += 1
        return True

    def forget_waiter(self, key: PoolKey, waiter: W) -> None:
        """Drop a connection that gave up waiting."""
        line = self._lines.get(key)
        if line is not None and waiter in line.waiting:
            line.waiting.remove(waiter)

    def dialled(self, key: PoolKey, tunnel: Tunnel, expires_at: float = math.inf) -> None:
        """A dial succeeded: the tunnel is up; our certificate ends at `expires_at`, epoch s."""
        line = self._lines[key]
        line.dialling -= 1
        line.tunnels[tunnel] = _Held(expires_at, self._clock())

    def pop_waiter(self, key: PoolKey) -> W | None:
        """Next connection that a tunnel with room should take."""
        line = self._lines.get(key)
        return line.waiting.popleft() if line and line.waiting else None

    def dial_failed(self, key: PoolKey) -> list[W]:
        """A dial failed. Returns the connections that fail with it: all that no other dial of
        this key is under way for."""
        line = self._lines[key]
        line.dialling -= 1
        keep = line.dialling * STREAMS_PER_TUNNEL
        failed = []
        while len(line.waiting) > keep:
            failed.append(line.waiting.pop())
        self._drop_if_unused(key, line)
        failed.reverse()
        return failed

    def lost(self, key: PoolKey, tunnel: Tunnel) -> None:
        """A tunnel ended, or takes no more streams."""
        line = self._lines.get(key)
        if line is None:
            return
        line.tunnels.pop(tunnel, None)
        self._drop_if_unused(key, line)

    def expired(self, now: float) -> list[tuple[PoolKey, Tunnel]]:
        """Tunnels whose certificate has ended at `now` (epoch s); they are handed out no more."""
        ended = [
            (key, tunnel)
            for key, line in self._lines.items()
            for tunnel, held in line.tunnels.items()
            if held.expires_at <= now
        ]
        for key, tunnel in ended:
            self.lost(key, tunnel)
        return ended

    def leave(self, source: WorkloadUid) -> list[tuple[Tunnel, float]]:
        """A workload is gone, or has another namespace: its tunnels, each with the end of its
        certificate (epoch s), are handed out no more."""
        left = [
            (key, tunnel, held.expires_at)
            for key, line in self._lines.items()
            if key.source == source
            for tunnel, held in line.tunnels.items()
        ]
        for key, tunnel, _ in left:
            self.lost(key, tunnel)
        return [(tunnel, expires_at) for _, tunnel, expires_at in left]

    def idle(self) -> list[Tunnel]:
        """Tunnels that had no stream in the last five minutes. Ask every few seconds: the time of
        a tunnel with streams is taken here."""
        now = self._clock()
        idle: list[Tunnel] = []
        for line in self._lines.values():
            for tunnel, held in line.tunnels.items():
                if tunnel.active_streams:
                    held.used_s = now
                elif held.used_s <= now - IDLE_TIMEOUT_S:
                    idle.append(tunnel)
        return idle

    def tunnels(self) -> list[tuple[PoolKey, Tunnel]]:
        """Every tunnel that is up."""
        return [(key, t) for key, line in self._lines.items() for t in line.tunnels]

    def _drop_if_unused(self, key: PoolKey, line: _Line[W]) -> None:
        if not (line.tunnels or line.waiting or line.dialling):
            self._lines.pop(key, None)
