"""Servers that answer early, or talk although nobody asked."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.unit.waypoint.lane.test_records import OK, Host, get


@pytest.fixture
def host() -> Iterator[Host]:
    with closing(Host()) as made:
        yield made


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    return theirs, ours


def test_an_answer_before_the_end_of_a_connection_is_read(host: Host) -> None:
    """The server has answered and closed before anything could be sent."""
    client, ours = pair()
    with ours:
        host.engine.serve(client, 1, get())
        assert host.server is not None
        host.server.sendall(OK)
        host.server.close()
        host.connect()
        host.engine.poll()
        assert ours.recv(4096).endswith(b"\r\n\r\nok")
        assert not host.target.in_use or host.target.idle == 0


def test_what_an_idle_server_says_is_no_answer(host: Host) -> None:
    client, ours = pair()
    with ours:
        host.engine.serve(client, 1, get("/1"))
        with host.connect() as first:
            assert first.recv(4096)
            first.sendall(OK)
            host.engine.poll()
            assert ours.recv(4096).endswith(b"ok")
            assert host.target.idle == 1
            ours.sendall(get("/2"))  # before the server's, as the engine will be told
            first.sendall(OK.replace(b"ok", b"!!"))
            host.engine.poll()
            second = host.connect()  # another one is wanted
            assert second is not first
            assert b"GET /2 " in second.recv(4096)
            second.sendall(OK)
            host.engine.poll()
            assert ours.recv(4096).endswith(b"\r\n\r\nok")


def test_a_socket_that_cannot_be_watched_stays_with_its_owner(host: Host) -> None:
    client, ours = pair()
    ours.close()
    client.close()
    with pytest.raises(OSError, match="cannot watch"):
        host.engine.serve(client, 1, b"")
    assert host.engine.clients == 0
