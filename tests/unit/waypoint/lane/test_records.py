"""Records of the engine: what has room, what is counted instead, and what is decoded."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.unit.waypoint.lane.lone_host import LoneHost
from waypoint.lane.record import Log, TapBounds, Wanted, Watch, bounds_of, decode, sent_headers
from waypoint.telemetry.tap import parse_filter

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Host(LoneHost):
    """Sends every request to one endpoint that answers `OK`."""

    def __init__(self) -> None:
        super().__init__()
        self.told = 0
        self.server: socket.socket | None = None
        self.pending: socket.socket | None = None

    def dial(self, number: int) -> None:
        self.pending, self.server = socket.socketpair()
        self.pending.setblocking(False)

    def recorded(self) -> None:
        self.told += 1

    def close(self) -> None:
        self.engine.close()
        if self.server is not None:
            self.server.close()

    def connect(self) -> socket.socket:
        """End the dial that is under way; the server's end."""
        pending, self.pending = self.pending, None
        if pending is None or self.server is None:
            raise AssertionError("no connection is wanted")
        self.target.connected(pending)
        return self.server

    def play(self, *requests: bytes) -> None:
        """Send requests on one connection, each after the answer to the one before."""
        client, ours = socket.socketpair()
        client.setblocking(False)
        with ours:
            for number, request in enumerate(requests):
                if number:
                    ours.sendall(request)
                    self.engine.poll()
                else:
                    self.engine.serve(client, 3, request)
                if self.pending is not None:
                    self.connect()
                self._answer(ours)
        self.engine.poll()

    def _answer(self, ours: socket.socket) -> None:
        assert self.server is not None
        self.engine.poll()
        assert self.server.recv(1 << 16).endswith(b"\r\n\r\n")
        self.server.sendall(OK)
        self.engine.poll()
        assert ours.recv(4096).endswith(b"ok")


@pytest.fixture
def host() -> Iterator[Host]:
    with closing(Host()) as made:
        yield made


def get(path: str = "/", *lines: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: w", *lines, "", "")).encode()


def test_nothing_is_recorded_that_nobody_wants(host: Host) -> None:
    host.play(get(), get())
    host.engine.watcher.watch(Watch(log=Log.ERRORS))
    host.engine.watcher.allow_lines(5)
    assert (host.told, host.engine.watcher.take_records(9), host.engine.watcher.take_lost()) == (
        0,
        b"",
        (0, 0, 0),
    )
    assert host.engine.watcher.allow_lines(0) == 5


def test_all_that_was_recorded_is_read_in_portions(host: Host) -> None:
    host.engine.watcher.watch(Watch(log=Log.ALL))
    host.engine.watcher.allow_lines(3)
    host.play(*(get(f"/{number}") for number in range(5)))
    assert host.told == 1
    paths: list[bytes] = []
    while data := host.engine.watcher.take_records(2):
        found = list(decode(data))
        assert 0 < len(found) <= 2
        assert all(item.wanted == Wanted.LOGGED for item in found)
        assert {(item.entry, item.target, item.origin) for item in found} == {(1, 7, 3)}
        paths += [item.path for item in found]
    assert paths == [b"/0", b"/1", b"/2"]
    assert host.engine.watcher.take_lost() == (2, 0, 0)
    assert host.engine.watcher.take_lost() == (0, 0, 0)


def test_what_has_no_room_is_counted(host: Host) -> None:
    host.engine.watcher.watch(Watch(log=Log.ALL))
    host.engine.watcher.allow_lines(1 << 60)
    count = 600
    long = get("/" + "x" * 3000)
    host.play(*[long] * count)
    kept = 0
    while data := host.engine.watcher.take_records(64):
        kept += len(list(decode(data)))
    assert 150 < kept < 400  # a megabyte
    assert host.engine.watcher.take_lost() == (count - kept, 0, 0)


def test_a_tap_gets_the_head_that_was_sent_on(host: Host) -> None:
    everything = TapBounds(method=b"", path=b"", status_from=0, status_to=999)
    assert host.engine.watcher.tap([everything])
    host.play(get("/a?b", "X-A: 1", "Content-Length: 0", "x-a: 2", "x-request-id: r"))
    (found,) = decode(host.engine.watcher.take_records(9))
    assert found.wanted == Wanted.TAPPED
    assert sent_headers(found.head) == [
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        (b"x-forwarded-for", b"10.0.0.9"),
        (b"x-request-id", b"r"),
    ]
    assert host.engine.watcher.tap([])
    host.play(get("/a"))
    assert host.engine.watcher.take_records(9) == b""


def test_there_may_be_more_taps_than_the_engine_knows_of(host: Host) -> None:
    one = TapBounds(method=b"GET", path=b"/", status_from=0, status_to=999)
    assert not host.engine.watcher.tap([one] * 1000)


def test_bounds_of_a_filter_let_everything_pass_that_it_wants() -> None:
    asked = [{}, {"status": "4xx", "path": "/a\0b"}, {"denied": "1"}, {"status": "404"}]
    found = bounds_of([parse_filter(1, query) for query in asked])
    assert [(b.status_from, b.status_to) for b in found] == [(0, 2**32 - 1), (400, 499), (404, 404)]
    assert found[1].path == b"/a"
