"""Peers with a good certificate and bad manners."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from mesh.tunnel.contract import LossReason, Tunnel, TunnelEngine, TunnelSettings
from tests.support import raw_h2 as h2
from tests.support.certs import TestCa
from tests.support.raw_h2 import RawPeer, raw_peer
from tests.support.tunnel import (
    CLIENT,
    CONNECT,
    SERVER,
    App,
    EngineFactory,
    StreamLog,
    TunnelLog,
    run,
    tcp_pair,
)

_QUICK = TunnelSettings(ping_interval_s=0.1, ping_timeout_s=0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    peer: RawPeer
    tunnel: Tunnel
    log: TunnelLog
    engine: TunnelEngine


@contextlib.asynccontextmanager
async def scene(
    factory: EngineFactory, *, peer_is_server: bool = False, settings: TunnelSettings | None = None
) -> AsyncIterator[Scene]:
    """An engine on one side, a raw peer on the other; SETTINGS were sent by the peer."""
    ca = TestCa()
    engine = factory(asyncio.get_running_loop(), settings or TunnelSettings())
    near, far = tcp_pair()
    log = TunnelLog()
    tunnel: Tunnel
    if peer_is_server:
        tunnel = engine.client(far, ca.issue(CLIENT), frozenset((SERVER,)), log)
        identity, preface = SERVER, b""
    else:
        tunnel = engine.server(far, ca.issue(SERVER), log)
        identity, preface = CLIENT, h2.PREFACE
    try:
        async with raw_peer(near, ca.issue(identity), server=peer_is_server) as peer:
            peer.write(preface + h2.frame(h2.SETTINGS))
            await log.up
            yield Scene(peer=peer, tunnel=tunnel, log=log, engine=engine)
    finally:
        await engine.aclose()


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(
            (
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", b"a"),
                (b":path", b"/"),
            ),
            id="get",
        ),
        pytest.param(
            (
                (b":method", b"CONNECT"),
                (b":scheme", b"https"),
                (b":authority", b"a:1"),
                (b":path", b"/"),
            ),
            id="connect-with-path",
        ),
        pytest.param(((b":method", b"CONNECT"),), id="connect-without-authority"),
    ],
)
def test_what_is_not_an_ordinary_connect(
    factory: EngineFactory, fields: tuple[tuple[bytes, bytes], ...]
) -> None:
    async def main() -> None:
        async with scene(factory) as it:
            it.peer.write(h2.request(1, *fields))
            kind, _, stream, payload = await it.peer.wait_frame(
                h2.HEADERS, h2.RST_STREAM, h2.GOAWAY
            )
            if kind == h2.HEADERS:
                # `:status: 400` is entry 12 of HPACK's static table (RFC 7541 appendix A).
                assert payload[:1] == b"\x8c"
            assert stream in (0, 1)
            assert it.log.requests.empty()

    run(main())


async def _flood(it: Scene, chunk: bytes, limit: int) -> None:
    with contextlib.suppress(ConnectionError):
        for _ in range(limit // len(chunk) + 1):
            await it.peer.send(chunk)
            if it.log.lost.done():
                return


def test_oversized_headers(factory: EngineFactory) -> None:
    async def main() -> None:
        async with scene(factory) as it:
            fields = [*h2.CONNECT_FIELDS, *((b"x-%d" % i, bytes(1000)) for i in range(200))]
            it.peer.write(h2.request(1, *((n, v.replace(b"\0", b"v")) for n, v in fields)))
            await it.peer.wait_frame(h2.HEADERS, h2.RST_STREAM, h2.GOAWAY)
            assert it.log.requests.empty()

    run(main())


def test_continuation_flood(factory: EngineFactory) -> None:
    async def main() -> None:
        async with scene(factory) as it:
            it.peer.write(h2.frame(h2.HEADERS, h2.literal(b":method", b"CONNECT"), stream=1))
            field = h2.literal(b"x-flood", b"v" * 1000)
            chunk = b"".join(h2.frame(h2.CONTINUATION, field, stream=1) for _ in range(16))
            await _flood(it, chunk, 64 << 20)
            assert (await it.log.lost).reason is LossReason.PROTOCOL
            assert it.log.requests.empty()

    run(main())


def test_reset_flood(factory: EngineFactory) -> None:
    async def main() -> None:
        async with scene(factory) as it:
            stream = 1
            with contextlib.suppress(ConnectionError):
                while stream < 20_000 and not it.log.lost.done():
                    batch = bytearray()
                    for _ in range(100):
                        batch += h2.request(stream, *h2.CONNECT_FIELDS)
                        batch += h2.frame(h2.RST_STREAM, b"\0\0\0\x08", stream=stream)
                        stream += 2
                    await it.peer.send(bytes(batch))
            assert (await it.log.lost).reason in (LossReason.PROTOCOL, LossReason.PEER_CLOSED)
            assert it.log.requests.qsize() < 3000

    run(main())


def test_peer_that_floods_pings_and_reads_nothing(factory: EngineFactory) -> None:
    async def main() -> None:
        async with scene(factory) as it:
            it.peer._reader._transport.pause_reading()  # type: ignore[attr-defined]
            await _flood(it, h2.frame(h2.PING, b"12345678") * 1000, 256 << 20)
            assert (await it.log.lost).reason in (LossReason.PROTOCOL, LossReason.RESET)

    run(main())


@pytest.mark.parametrize("peer_is_server", [True, False])
def test_peer_that_stops_answering_pings(factory: EngineFactory, peer_is_server: bool) -> None:
    async def main() -> None:
        async with scene(factory, peer_is_server=peer_is_server, settings=_QUICK) as it:
            loss = await it.log.lost
            assert loss.reason is LossReason.PING_TIMEOUT

    run(main())


def test_answered_pings_keep_the_tunnel(factory: EngineFactory) -> None:
    async def main() -> None:
        async with scene(factory, settings=_QUICK) as it:
            answered = 0
            while answered < 5:
                _, flags, _, payload = await it.peer.wait_frame(h2.PING)
                if not flags & h2.ACK:
                    it.peer.write(h2.frame(h2.PING, payload, flags=h2.ACK))
                    answered += 1
            assert not it.log.lost.done()

    run(main())


def test_goaway_in_the_middle_of_streams(factory: EngineFactory) -> None:
    async def main() -> None:
        async with scene(factory, peer_is_server=True) as it:
            logs, ends = [], []
            for _ in range(2):
                near, engine_end = tcp_pair()
                log = StreamLog()
                it.tunnel.open_stream(CONNECT, engine_end, log)
                logs.append(log)
                ends += [near, engine_end]
            await it.peer.wait_frame(h2.HEADERS)
            await it.peer.wait_frame(h2.HEADERS)
            it.peer.write(h2.frame(h2.HEADERS, b"\x88", flags=h2.END_HEADERS, stream=1))
            it.peer.write(h2.frame(h2.GOAWAY, (1).to_bytes(4, "big") + bytes(4)))
            status, _, detail = await logs[1].refused
            assert status == 0
            assert detail
            assert ends[3].fileno() >= 0
            await logs[0].opened
            assert it.log.draining.is_set()
            assert not it.tunnel.can_open
            it.peer.write(h2.frame(h2.DATA, b"late", flags=h2.END_STREAM, stream=1))
            assert await App(ends[0]).receive() == b"late"
            ends[0].close()
            assert (await it.log.lost).reason is LossReason.PEER_CLOSED
            for end in ends:
                end.close()

    run(main())


def test_goaway_behind_payload_for_an_application_that_is_gone(factory: EngineFactory) -> None:
    async def main() -> None:
        async with scene(factory, peer_is_server=True) as it:
            logs, ends = [], []
            for _ in range(2):
                near, engine_end = socket.socketpair()
                log = StreamLog()
                it.tunnel.open_stream(CONNECT, engine_end, log)
                await it.peer.wait_frame(h2.HEADERS)
                logs.append(log)
                ends += [near, engine_end]
            for stream, log in zip((1, 3), logs, strict=True):
                it.peer.write(h2.frame(h2.HEADERS, b"\x88", flags=h2.END_HEADERS, stream=stream))
                await log.opened
            ends[2].shutdown(socket.SHUT_RD)  # writing fails now, reading does not
            it.peer.write(h2.frame(h2.DATA, b"late", stream=3) + h2.frame(h2.GOAWAY, bytes(8)))
            assert (await it.log.lost).reason is LossReason.PEER_CLOSED
            for end in ends:
                end.close()

    run(main())


@pytest.mark.parametrize("kind", [h2.SETTINGS, h2.GOAWAY])
def test_flood_of_frames_that_say_nothing_new(factory: EngineFactory, kind: int) -> None:
    payload = bytes([0x7F, 255, 255, 255, 0, 0, 0, 0]) if kind == h2.GOAWAY else b""

    async def main() -> None:
        async with scene(factory) as it:
            await _flood(it, h2.frame(kind, payload) * 100, 1 << 20)
            assert (await it.log.lost).reason in (LossReason.PROTOCOL, LossReason.PEER_CLOSED)

    run(main())


def test_http1_instead_of_http2(factory: EngineFactory) -> None:
    async def main() -> None:
        ca = TestCa()
        engine = factory(asyncio.get_running_loop(), TunnelSettings())
        near, far = tcp_pair()
        log = TunnelLog()
        engine.server(far, ca.issue(SERVER), log)
        async with raw_peer(near, ca.issue(CLIENT)) as peer:
            peer.write(b"CONNECT 192.0.2.1:80 HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await log.lost).reason is LossReason.PROTOCOL
            assert not log.up.done()
        await engine.aclose()

    run(main())


def test_application_of_a_peer_that_never_reads_is_stopped(factory: EngineFactory) -> None:
    """The peer grants a huge window but does not read its TCP socket."""

    async def main() -> None:
        async with scene(factory, peer_is_server=True) as it:
            near, engine_end = tcp_pair()
            log = StreamLog()
            stream = it.tunnel.open_stream(CONNECT, engine_end, log)
            await it.peer.wait_frame(h2.HEADERS)
            window = b"\0\4\x7f\xff\xff\xff"
            it.peer.write(h2.frame(h2.SETTINGS, window))
            it.peer.write(h2.frame(8, (0x7FFF0000 - 65535).to_bytes(4, "big")))
            it.peer.write(h2.frame(h2.HEADERS, b"\x88", flags=h2.END_HEADERS, stream=1))
            await log.opened
            it.peer._reader._transport.pause_reading()  # type: ignore[attr-defined]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    while True:
                        await App(near).send(bytes(1 << 16))
            # What the kernel holds (TCP buffers grow to some MiB) and our own bound.
            assert stream.bytes_out < 24 << 20
            near.close()

    run(main())
