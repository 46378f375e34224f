"""Tunnels past the end of a certificate, the peer's or ours.

They take no new streams. Open ones proved who they were when they were opened and have a time of
grace; then the tunnel is ended with what it carries, and that is logged and counted.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from mesh.tunnel.contract import Tunnel

log = logging.getLogger(__name__)

BACKSTOP_S = 60.0
"""The engine ends a tunnel by itself this long after it should have been ended here."""


@dataclass(frozen=True, slots=True)
class _Retired:
    ends_at: float
    what: str


class ExpiredTunnels:
    """All of one worker. Times are epoch seconds."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._retired: dict[Tunnel, _Retired] = {}
        self.cut = 0
        """Tunnels that were ended while they carried something."""

    def retire(self, tunnel: Tunnel, now: float, what: str) -> None:
        """Its certificate has ended. `what` names it in the log. Idempotent."""
        if tunnel not in self._retired:
            tunnel.drain(self._grace_s + BACKSTOP_S)
            self._retired[tunnel] = _Retired(now + self._grace_s, what)

    def let_end(self, tunnel: Tunnel, expires_at: float, now: float) -> None:
        """Nobody needs it any more, such as of a pod that has gone: it ends with its last stream,
        and as late as it would have ended otherwise."""
        tunnel.drain(max(0.0, expires_at - now) + self._grace_s)

    def forget(self, tunnel: Tunnel) -> None:
        """It has ended by itself."""
        self._retired.pop(tunnel, None)

    def end_overdue(self, now: float) -> None:
        """End those whose grace is over. Ask every few seconds."""
        overdue = [tunnel for tunnel, retired in self._retired.items() if retired.ends_at <= now]
        for tunnel in overdue:
            retired = self._retired.pop(tunnel)
            streams = tunnel.active_streams
            if streams:
                self.cut += 1
                log.warning(
                    "%s: its certificate ended %.0f s ago; %d open connections are cut",
                    *(retired.what, now - retired.ends_at + self._grace_s, streams),
                )
            tunnel.abort("its certificate has ended")
