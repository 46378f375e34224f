"""What the lane remembers of clients' words has an end."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.unit.waypoint.lane.lone_host import FIELDS, LoneHost
from waypoint.lane.engine import Target

MAX_KNOWN_BYTES = 32 << 20


class _Host(LoneHost):
    """Admits every request to an endpoint that nobody connects to."""

    def __init__(self) -> None:
        super().__init__()
        self.decided = 0

    def caller(self, number: int) -> object:
        return self.engine.caller(number % 100, FIELDS, (), False)

    def decide(self, number: int, request: bytes, sent: bytes) -> tuple[int, list[Target]] | None:
        self.decided += 1
        return self.decided, [self.target]

    def hand_over(self, number: int, sock: socket.socket, data: bytes) -> None:
        sock.close()


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
