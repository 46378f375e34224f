"""Peers that attack port 15008 of a pod: real workers refuse them, live on, and serve others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from mesh.model.credentials import Credentials
from mesh.tunnel.tls import build_context
from tests.lab import Pod, eventually
from tests.netns.faults.hostile import CLIENT, LabCa, dial, peer, status_of
from tests.netns.faults.world import PORT, World, agent_of, worker_pids
from tests.support import raw_h2 as h2
from tests.support.certs import TestCa, spiffe

pytestmark = pytest.mark.root

LIMIT_S = 20.0


@pytest.fixture(scope="module")
def attacker(world: World) -> Pod:
    return world.a.pod("attacker", namespace="outside")


@pytest.fixture(scope="module")
def ca(world: World) -> LabCa:
    return LabCa(world.lab.directory / "ca")


@pytest.fixture(scope="module")
def silent(world: World, attacker: Pod) -> Iterator[socket.socket]:
    """A peer that says nothing from the first test on."""
    with dial(attacker, world.far.address4) as sock:
        yield sock


@pytest.fixture(autouse=True)
def the_worker_lives_and_serves_others(world: World, silent: socket.socket) -> Iterator[None]:
    before = sorted(worker_pids(world.b))
    held = world.hold(world.far.address4)
    yield
    assert world.ask(world.far.address4).end == "ok"
    result = held.result()
    assert result.end == "alive"
    assert result.longest < 10.0, f"others waited {result.longest:.1f} s"
    assert sorted(worker_pids(world.b)) == before


def run(test: Coroutine[None, None, None], limit_s: float = LIMIT_S) -> None:
    async def limited() -> None:
        async with asyncio.timeout(limit_s):
            await test

    asyncio.run(limited())


def rss_bytes(pids: list[int]) -> int:
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def failures(world: World, silent: socket.socket) -> list[tuple[object, str]]:
    """Flag and error of what the destination's node logged as failed, but for the silent peer."""
    host, port = silent.getsockname()
    return [
        (record["flag"], str(record.get("error", "")))
        for record in agent_of(world.b).access_log()
        if record["flag"] != "-" and record.get("src.addr") != f"{host}:{port}"
    ]


async def received(attacker: Pod, world: World, context: ssl.SSLContext | None) -> bytes:
    """What a peer that speaks HTTP/2 at once gets to read before the connection ends."""
    sock = await asyncio.to_thread(dial, attacker, world.far.address4)
    read = b""
    try:
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=context, server_hostname="" if context else None
        )
    except (ssl.SSLError, ConnectionError):
        return read
    try:
        writer.write(h2.PREFACE + h2.frame(h2.SETTINGS))
        while data := await reader.read(65536):
            read += data
    except (ssl.SSLError, ConnectionError):
        return read
    finally:
        writer.transport.abort()
    return read


def without_certificate(ca: LabCa) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def with_certificate(issue: Callable[[LabCa], Credentials]) -> Callable[[LabCa], ssl.SSLContext]:
    return lambda ca: build_context(issue(ca), server=False)


def of_another_ca(ca: LabCa) -> Credentials:
    return TestCa("cluster.local").issue(CLIENT, bundle=ca.bundle())


@pytest.mark.parametrize(
    ("make", "flag", "told"),
    [
        pytest.param(without_certificate, "TLS_FAILURE", "certificate", id="none"),
        pytest.param(
            with_certificate(of_another_ca), "TLS_FAILURE", "certificate", id="unknown-root"
        ),
        pytest.param(
            with_certificate(lambda ca: ca.issue(CLIENT, expired=True)),
            "TLS_FAILURE",
            "expired",
            id="expired",
        ),
        pytest.param(
            with_certificate(lambda ca: ca.issue(spiffe("client", trust_domain="elsewhere"))),
            "IDENTITY_ERROR",
            "elsewhere",
            id="wrong-trust-domain",
        ),
        pytest.param(
            with_certificate(lambda ca: ca.issue(CLIENT, uris=["https://example.org/"])),
            "IDENTITY_ERROR",
            "SPIFFE",
            id="no-spiffe-id",
        ),
        pytest.param(
            with_certificate(lambda ca: ca.issue(CLIENT, uris=[], dns_names=["client"])),
            "IDENTITY_ERROR",
            "SPIFFE",
            id="name-without-uri",
        ),
    ],
)
def test_a_bad_certificate_is_refused_before_http2(
    world: World,
    attacker: Pod,
    ca: LabCa,
    silent: socket.socket,
    make: Callable[[LabCa], ssl.SSLContext],
    flag: str,
    told: str,
) -> None:
    known = len(failures(world, silent))

    async def attack() -> None:
        assert await received(attacker, world, make(ca)) == b""

    run(attack())

    def logged() -> bool:
        new = failures(world, silent)[known:]
        assert new, "nothing was logged"
        return all(found == flag and told.lower() in error.lower() for found, error in new)

    try:
        eventually(logged, 30.0)
    except AssertionError as error:
        raise AssertionError(f"logged: {failures(world, silent)[known:]}") from error


@pytest.mark.parametrize(
    "greeting",
    [
        pytest.param(b"\x00" * 4096, id="zeros"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="http1-in-the-clear"),
        pytest.param(h2.PREFACE, id="http2-in-the-clear"),
        pytest.param(b"\x16\x03\x01\xff\xff" + b"\x01" * 70000, id="oversized-record"),
    ],
)
def test_garbage_before_tls(world: World, attacker: Pod, greeting: bytes) -> None:
    async def attack() -> None:
        sock = await asyncio.to_thread(dial, attacker, world.far.address4)
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(greeting)
        with contextlib.suppress(ConnectionError):
            answer = await reader.read(65536)
            assert b"HTTP" not in answer
            assert len(answer) < 64  # an alert at most
        writer.transport.abort()

    run(attack())


def test_http1_inside_tls(world: World, attacker: Pod, ca: LabCa) -> None:
    async def attack() -> None:
        sock = await asyncio.to_thread(dial, attacker, world.far.address4)
        context = build_context(ca.issue(CLIENT), server=False)
        reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname="")
        writer.write(b"CONNECT 10.40.2.2:8080 HTTP/1.1\r\nHost: x\r\n\r\n")
        read = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(65536):
                read += data
        assert b"HTTP/1" not in read
        writer.transport.abort()

    run(attack())


async def flood(world: World, attacker: Pod, ca: LabCa, chunk: Callable[[int], bytes]) -> None:
    """Send until the worker cuts the connection; it must."""
    async with peer(attacker, world.far.address4, ca.issue(CLIENT)) as raw:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            for number in range(20_000):
                await raw.send(chunk(number))
                await asyncio.sleep(0)
            raise AssertionError("the flood was borne to its end")


def test_oversized_headers(world: World, attacker: Pod, ca: LabCa) -> None:
    async def attack() -> None:
        async with peer(attacker, world.far.address4, ca.issue(CLIENT)) as raw:
            fields = [*h2.CONNECT_FIELDS, *((b"x-%d" % i, b"v" * 1000) for i in range(15))]
            blocks = [h2.literal(name, value) for name, value in fields]
            raw.write(h2.frame(h2.HEADERS, b"".join(blocks), stream=1))
            for _ in range(20):
                block = h2.literal(b"x-more", b"v" * 8000)
                raw.write(h2.frame(h2.CONTINUATION, block, stream=1))
            raw.write(h2.frame(h2.CONTINUATION, b"", flags=h2.END_HEADERS, stream=1))
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                kind, *_ = await raw.wait_frame(h2.HEADERS, h2.RST_STREAM, h2.GOAWAY)
                assert kind

    run(attack())


def test_continuation_flood(world: World, attacker: Pod, ca: LabCa) -> None:
    opening = h2.frame(h2.HEADERS, h2.literal(b":method", b"CONNECT"), stream=1)
    more = h2.frame(h2.CONTINUATION, h2.literal(b"x", b"v" * 8000), stream=1)
    run(flood(world, attacker, ca, lambda number: more if number else opening))


def test_reset_flood(world: World, attacker: Pod, ca: LabCa) -> None:
    def rapid_reset(number: int) -> bytes:
        stream = 2 * number + 1
        reset = h2.frame(h2.RST_STREAM, b"\0\0\0\x08", stream=stream)
        return h2.request(stream, *h2.CONNECT_FIELDS) + reset

    run(flood(world, attacker, ca, rapid_reset))


def test_ping_flood_of_a_peer_that_never_reads(world: World, attacker: Pod, ca: LabCa) -> None:
    pings = b"".join(h2.frame(h2.PING, bytes(8)) for _ in range(500))
    before = rss_bytes(worker_pids(world.b))

    async def attack() -> None:
        sock = await asyncio.to_thread(dial, attacker, world.far.address4)
        context = build_context(ca.issue(CLIENT), server=False)
        _, writer = await asyncio.open_connection(
            sock=sock, ssl=context, server_hostname="", limit=1024
        )
        transport = writer.transport
        writer.write(h2.PREFACE + h2.frame(h2.SETTINGS))
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(3.0):
                while not transport.is_closing():
                    writer.write(pings)
                    await writer.drain()
                    await asyncio.sleep(0)  # drain() alone need not give way
        transport.abort()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    run(attack())
    grown = rss_bytes(worker_pids(world.b)) - before
    assert grown < 64 << 20, f"{grown >> 20} MiB"


@pytest.mark.parametrize(
    ("authority", "status"),
    [
        ("{far}:" + str(PORT), "200"),
        ("[{far6}]:" + str(PORT), "200"),
        ("{far}:1", "503"),
        ("10.40.2.99:8080", "400"),
        ("{client}:8080", "400"),
        ("127.0.0.1:8080", "400"),
        ("[::1]:8080", "400"),
        ("169.254.169.254:80", "400"),
        ("{far}:15001", "503"),
        ("{far}:15006", "503"),
        ("{far}:15008", "503"),
        ("{far}:0", "400"),
        ("{far}:65536", "400"),
        ("{far}", "400"),
        ("nonsense", "400"),
    ],
)
def test_connect_reaches_nothing_but_the_pod(
    world: World, ca: LabCa, attacker: Pod, authority: str, status: str
) -> None:
    text = authority.format(
        far=world.far.address4, far6=world.far.address6, client=world.client.address4
    )

    dialled = world.far.address6 if "far6" in authority else world.far.address4

    async def attack() -> None:
        async with peer(attacker, dialled, ca.issue(CLIENT)) as raw:
            assert await status_of(raw, 1, text) == status

    run(attack())


def test_a_peer_that_never_reads_costs_bounded_memory(
    world: World, attacker: Pod, ca: LabCa
) -> None:
    target = f"{world.far.address4}:{PORT}"
    before = rss_bytes(worker_pids(world.b))

    async def attack() -> None:
        async with peer(attacker, world.far.address4, ca.issue(CLIENT)) as raw:
            for stream in range(1, 40, 2):
                assert await status_of(raw, stream, target) == "200"
            block, sent = bytes(16384), 0
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(5.0):
                    # All that the windows allow, and echoed: none of it is read or granted.
                    for _ in range(16 * 1024 * 1024 // len(block) // 20):
                        for stream in range(1, 40, 2):
                            await raw.send(h2.frame(h2.DATA, block, stream=stream))
                            sent += len(block)
            assert sent > 4 << 20, f"only {sent} bytes were taken"
            grown = rss_bytes(worker_pids(world.b)) - before
            assert grown < 64 << 20, f"{grown >> 20} MiB"

    run(attack())


def test_goaway_in_the_middle_of_a_stream(world: World, attacker: Pod, ca: LabCa) -> None:
    async def attack() -> None:
        async with peer(attacker, world.far.address4, ca.issue(CLIENT)) as raw:
            assert await status_of(raw, 1, f"{world.far.address4}:{PORT}") == "200"
            raw.write(h2.frame(h2.GOAWAY, bytes(8)))
            raw.write(h2.frame(h2.DATA, b"still here", stream=1))
            _, _, stream, payload = await raw.wait_frame(h2.DATA)
            assert (stream, payload) == (1, b"still here")

    run(attack())


def test_a_peer_that_says_nothing_is_let_go(silent: socket.socket) -> None:
    """Late, because it has ten seconds, which have been over for a while by now."""
    silent.settimeout(LIMIT_S)
    with contextlib.suppress(ConnectionError):
        assert silent.recv(1) == b""


@pytest.mark.slow
def test_a_peer_that_stops_answering_ping_is_let_go(world: World, attacker: Pod, ca: LabCa) -> None:
    async def attack() -> None:
        async with peer(attacker, world.far.address4, ca.issue(CLIENT)) as raw:
            assert await status_of(raw, 1, f"{world.far.address4}:{PORT}") == "200"
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await raw.read_frame():
                    pass  # PINGs among them, which nobody answers

    run(attack(), limit_s=45.0)
