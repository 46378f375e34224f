"""A client that takes nothing of its answer is given up, and its server with it, once."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress

from tests.unit.waypoint.lane.test_unsent import _Host, _pair, _read
from waypoint.limits import ProxyLimits

GET = b"GET / HTTP/1.1\r\nHost: w\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BIG = 1 << 20


def _served(host: _Host, stack: ExitStack) -> socket.socket:
    """A client's connection with a request under way; its other end."""
    client, ours = _pair()
    host.engine.serve(client, 1, GET)
    return stack.enter_context(ours)


def test_a_server_that_is_older_than_its_client_is_closed_once() -> None:
    host = _Host(ProxyLimits(write_timeout_s=0.0, upstream_idle_s=0.0))
    server, theirs = _pair()
    with theirs, ExitStack() as stack:
        first = _served(host, stack)
        host.target.connected(server)
        theirs.sendall(ANSWER)
        while not _read(first):
            host.engine.poll()
        _served(host, stack)  # over the connection that is there
        assert host.wanted_dials == 1
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BIG + b"x" * BIG
        stuck = 0
        while stuck < 50:  # until nobody takes any more of it
            host.engine.poll()
            try:
                answer, stuck = answer[theirs.send(answer) :], 0
            except BlockingIOError:
                stuck += 1
        assert answer
        assert host.engine.clients == 2
        for _ in range(3):
            host.engine.tick()
        assert not host.target.active
        with suppress(BlockingIOError, ConnectionResetError):
            while theirs.recv(1 << 16):
                pass
        assert [count.count for count in host.engine.take()] == [1, 1]
        third = _served(host, stack)
        assert host.wanted_dials == 2
        server, new = _pair()
        with new:
            host.target.connected(server)
            new.sendall(ANSWER)
            while not _read(third):
                host.engine.poll()
    host.engine.close()
