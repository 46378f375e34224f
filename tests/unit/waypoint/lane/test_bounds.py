"""What the lane remembers of clients' words has an end."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from mesh.telemetry.requests import BUCKETS_MS
from waypoint.exchange.forward_headers import caller_fields
from waypoint.lane.adopt import Adopted
from waypoint.lane.engine import Engine, Target
from waypoint.limits import ProxyLimits

FIELDS = caller_fields(None, None, "10.0.0.9")
MAX_KNOWN_BYTES = 32 << 20


class _Host:
    """Admits every request to an endpoint that nobody connects to."""

    def __init__(self) -> None:
        self.engine = Engine(ProxyLimits(), self, BUCKETS_MS)
        self.target = self.engine.target(7)
        self.decided = 0

    def caller(self, number: int) -> object:
        return self.engine.caller(number % 100, FIELDS, (), False)

    def decide(self, number: int, request: bytes, sent: bytes) -> tuple[int, list[Target]] | None:
        self.decided += 1
        return self.decided, [self.target]

    def dial(self, number: int) -> None:
        """Nobody answers."""

    def hand_over(self, number: int, sock: socket.socket, data: bytes) -> None:
        sock.close()

    def adopt(self, number: int, entry: int, target: int, found: Adopted) -> None:
        raise AssertionError(number)

    def closed(self, number: int) -> None:
        """Nothing is kept of it."""

    def recorded(self) -> None:
        """Nothing is looked at."""

    def gone(self, entry: int) -> None:
        """Nothing is kept of it."""


@pytest.fixture
def host() -> Iterator[_Host]:
    made = _Host()
    yield made
    made.engine.close()


def test_decisions_of_all_callers_have_an_end(host: _Host) -> None:
    most = 0
    for number in range(14_000):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        path = b"/%d/" % number + b"p" * 3000
        host.engine.serve(ours, number, b"GET " + path + b" HTTP/1.1\r\nHost: w\r\n\r\n")
        most = max(most, host.engine.known_bytes)
        theirs.close()
        host.engine.poll()  # which notices that
        assert host.engine.clients == 0
        if number % 500 == 0:
            host.engine.take()
            host.engine.tick()
    assert host.decided == 14_000
    assert MAX_KNOWN_BYTES * 3 // 4 < most <= MAX_KNOWN_BYTES
    host.engine.forget()
    assert host.engine.known_bytes == 0
