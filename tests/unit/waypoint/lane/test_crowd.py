"""All requests of a worker have one limit, whoever has them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.unit.waypoint.lane.lone_host import FIELDS, LoneHost
from waypoint.limits import ProxyLimits
from waypoint.resilience.crowd import HTTP1_LANE, HTTP2_LANE, PYTHON, Crowd

REQUEST = b"GET / HTTP/1.1\r\nHost: w\r\n\r\n"
LIMITS = ProxyLimits(worker_requests=8)  # of which fairness leaves the lanes four


class _Host(LoneHost):
    """Admits every request to an endpoint that nobody connects to."""

    def __init__(self) -> None:
        self.crowd = Crowd()
        super().__init__(LIMITS)
        self.engine.join(self.crowd)
        self.handed_over = 0

    def ask(self) -> socket.socket:
        """One request of a client of its own."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.engine.serve(ours, 1, REQUEST)
        return theirs

    def caller(self, number: int) -> object:
        return self.engine.caller(number, FIELDS, (), False)

    def hand_over(self, number: int, sock: socket.socket, data: bytes) -> None:
        self.handed_over += 1
        sock.close()


@pytest.fixture
def host() -> Iterator[_Host]:
    made = _Host()
    yield made
    made.engine.close()


def test_the_lane_counts_where_all_see_it(host: _Host) -> None:
    clients = [host.ask() for _ in range(3)]
    assert host.crowd.cells[HTTP1_LANE] == host.crowd.size == 3
    host.engine.cut()
    assert host.crowd.size == 0
    for client in clients:
        client.close()


@pytest.mark.parametrize("cell", [PYTHON, HTTP2_LANE])
def test_requests_of_others_leave_less_room(host: _Host, cell: int) -> None:
    host.crowd.cells[cell] = 2
    clients = [host.ask() for _ in range(5)]
    assert host.crowd.cells[HTTP1_LANE] == 2
    assert host.handed_over == 3
    host.crowd.cells[cell] = 0
    clients.append(host.ask())
    assert host.handed_over == 3
    for client in clients:
        client.close()
