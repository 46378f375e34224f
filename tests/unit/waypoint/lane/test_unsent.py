"""A request that is answered before all of it was sent loses none of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from random import Random

import pytest

from mesh.http1.head import parse_request_head
from mesh.http1.message import Headers, Limits, ResponseHead
from tests.unit.waypoint.lane.lone_host import LoneHost
from waypoint.codec.flush_queue import FlushQueue
from waypoint.codec.h1_client import Http1Client
from waypoint.contract import Failure
from waypoint.downstream.attach import attach
from waypoint.exchange.forward_headers import caller_fields, prepare_request
from waypoint.lane.adopt import Adopted
from waypoint.limits import ProxyLimits

BODY = Random(5).randbytes(200_000)
HEAD = b"POST /a HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n" % len(BODY)
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
SMALL = 4096
"""Of a socket's buffer; the kernel makes it a little larger."""


class _Host(LoneHost):
    """Sends every request to one endpoint, and keeps what is to be adopted."""

    def __init__(self, limits: ProxyLimits | None = None) -> None:
        super().__init__(limits)
        self.wanted_dials = 0
        self.adopted: list[Adopted] = []

    def dial(self, number: int) -> None:
        self.wanted_dials += 1

    def adopt(self, number: int, entry: int, target: int, found: Adopted) -> None:
        self.adopted.append(found)


@pytest.fixture
def host() -> Iterator[_Host]:
    made = _Host()
    yield made
    made.engine.close()
    for found in made.adopted:
        found.client.close()
        if found.server is not None:
            found.server.close()


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def _read(sock: socket.socket) -> bytes:
    """What is there now."""
    data = b""
    with suppress(BlockingIOError):
        while more := sock.recv(1 << 16):
            data += more
    return data


def test_python_gets_what_was_not_sent_yet(host: _Host) -> None:
    client, ours = _pair()
    server, theirs = _pair()
    with ours, theirs:
        host.engine.serve(client, 1, HEAD + BODY)
        assert host.wanted_dials == 1
        host.target.connected(server)
        theirs.sendall(CHUNKED)  # nothing was read of the request
        while not host.adopted:
            host.engine.poll()
        (found,) = host.adopted
        assert found.unsent
        assert found.answer == CHUNKED
        _, _, body = (_read(theirs) + found.unsent).partition(b"\r\n\r\n")
        assert body == BODY


def test_an_answer_larger_than_the_request_does_not_stop_it(host: _Host) -> None:
    """The rest of a request goes out although its answer had to wait for a slow client."""
    client, ours = _pair()
    server, theirs = _pair()
    big = 4 << 20
    with ours, theirs:
        host.engine.serve(client, 1, HEAD + BODY)
        host.target.connected(server)
        answer = memoryview(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % big + b"x" * big)
        got, asked, stuck = 0, b"", 0
        while answer and stuck < 50:  # nobody reads what goes to the client
            host.engine.poll()
            try:
                answer, stuck = answer[theirs.send(answer[: 1 << 16]) :], 0
            except BlockingIOError:
                stuck += 1
        assert answer
        asked += _read(theirs)
        for _ in range(100_000):
            host.engine.poll()
            got += len(_read(ours))
            asked += _read(theirs)
            with suppress(BlockingIOError):
                answer = answer[theirs.send(answer[: 1 << 16]) :] if answer else answer
            if got > big and asked.endswith(BODY):
                break
        assert got > big
        assert asked.endswith(BODY)


def test_a_client_that_leaves_its_answer_unread_is_idle_in_the_end() -> None:
    host = _Host(ProxyLimits(downstream_idle_s=0.0))
    client, ours = _pair()
    server, theirs = _pair()
    with ours, theirs:
        host.engine.serve(client, 1, b"GET / HTTP/1.1\r\nHost: w\r\n\r\n")
        host.target.connected(server)
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
        while answer:
            with suppress(BlockingIOError):
                answer = answer[theirs.send(answer) :]
            host.engine.poll()
        while host.target.active:
            host.engine.poll()
        assert host.engine.clients == 1
        host.engine.tick()
        assert host.engine.clients == 0
        assert len(_read(ours)) < len(BODY)
    host.engine.close()


class _Sink:
    """Hears of the answer, and wants nothing of it."""

    def informed(self, head: ResponseHead) -> None: ...
    def responded(self, head: ResponseHead) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def response_end(self, trailers: Headers) -> None: ...
    def flush_response(self) -> None: ...
    def upstream_blocked(self, blocked: bool) -> None: ...
    def upstream_failed(self, failure: Failure) -> None:
        raise AssertionError(failure)


def test_python_sends_it_before_the_connection_is_free() -> None:
    head = parse_request_head(HEAD.removesuffix(b"\r\n\r\n"), Limits())
    prepare_request(head, caller_fields(None, None, "10.0.0.9"), Random(1))
    free: list[Http1Client] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        lost = asyncio.Event()
        flushes = FlushQueue(loop)
        client = Http1Client(ProxyLimits(), free.append, lambda _: lost.set(), flushes)
        ours, theirs = _pair()
        with theirs:
            await attach(
                loop,
                ours,
                client,
                CHUNKED,
                lambda: client.resume(head, _Sink(), 1, BODY),
            )
            assert free == [client]
            data = b""
            async with asyncio.timeout(30):
                while len(data) < len(BODY):
                    data += await loop.sock_recv(theirs, 1 << 16)
            assert data == BODY
            client.close()
            async with asyncio.timeout(30):
                await lost.wait()

    asyncio.run(main())
