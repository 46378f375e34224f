"""The lane without a worker: every request goes to one endpoint, and nothing comes of it."""

from __future__ import annotations

import socket

from mesh.telemetry.requests import BUCKETS_MS
from waypoint.exchange.forward_headers import caller_fields
from waypoint.lane.adopt import Adopted
from waypoint.lane.engine import Engine, Target
from waypoint.limits import ProxyLimits

FIELDS = caller_fields(None, None, "10.0.0.9")


class LoneHost:
    """The lane's owner; subclasses say what else they want of it."""

    def __init__(self, limits: ProxyLimits | None = None) -> None:
        self.engine = Engine(limits or ProxyLimits(), self, BUCKETS_MS)
        self.target = self.engine.target(7)

    def caller(self, number: int) -> object:
        return self.engine.caller("caller", FIELDS, (), False)

    def decide(self, number: int, request: bytes, sent: bytes) -> tuple[int, list[Target]] | None:
        return 1, [self.target]

    def dial(self, number: int) -> None:
        """Nobody answers."""

    def hand_over(self, number: int, sock: socket.socket, data: bytes) -> None:
        sock.close()
        raise AssertionError(data)

    def adopt(self, number: int, entry: int, target: int, found: Adopted) -> None:
        raise AssertionError(found)

    def closed(self, number: int) -> None:
        """Nothing is kept of it."""

    def recorded(self) -> None:
        """Nothing is looked at."""

    def gone(self, entry: int) -> None:
        """Nothing is kept of it."""
