"""Start, stop and misuse of the native engine; what it does with bytes is in the contract suite."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
import uvloop

from mesh.errors import LocalProtocolError
from mesh.tunnel.contract import End, EndReason, TunnelSettings
from mesh.tunnel.native.engine import NativeTunnelEngine
from tests.support.certs import TestCa
from tests.support.tunnel import (
    CLIENT,
    CONNECT,
    SERVER,
    RelayLog,
    StreamLog,
    TunnelLog,
    run,
    tcp_pair,
    tunnel_pair,
)


def _threads() -> list[str]:
    tasks = Path("/proc/self/task")
    return [(tasks / task / "comm").read_text().strip() for task in os.listdir(tasks)]


def test_the_thread_lives_from_the_first_socket_to_the_close() -> None:
    async def main() -> None:
        engine = NativeTunnelEngine(asyncio.get_running_loop(), TunnelSettings())
        assert "tunnels" not in _threads()
        (first, second), (third, fourth) = tcp_pair(), tcp_pair()
        log = RelayLog()
        engine.relay(second, third, log)
        first.send(b"x")
        assert await asyncio.get_running_loop().sock_recv(fourth, 10) == b"x"
        assert "tunnels" in _threads()
        await engine.aclose()
        assert log.closed.result().reason is EndReason.ABORTED
        assert "tunnels" not in _threads()
        await engine.aclose()
        first.close()
        fourth.close()

    run(main())


def test_a_closed_engine_takes_nothing_and_closes_what_it_is_given() -> None:
    async def main() -> None:
        ca = TestCa()
        engine = NativeTunnelEngine(asyncio.get_running_loop(), TunnelSettings())
        await engine.aclose()
        near, far = tcp_pair()
        with pytest.raises(LocalProtocolError, match="closed"):
            engine.relay(near, far, RelayLog())
        assert near.fileno() == far.fileno() == -1
        near, far = tcp_pair()
        with pytest.raises(LocalProtocolError, match="closed"):
            engine.server(near, ca.issue(SERVER), TunnelLog())
        with pytest.raises(LocalProtocolError, match="closed"):
            engine.client(far, ca.issue(CLIENT), frozenset((SERVER,)), TunnelLog())
        assert near.fileno() == far.fileno() == -1

    run(main())


@pytest.mark.parametrize(
    "field", [(b"Upper", b"x"), (b"x", b"a\nb"), (b"x", b"a\0b"), (b"", b"x"), (b"x y", b"z")]
)
def test_headers_that_http2_forbids_are_refused_at_the_call(field: tuple[bytes, bytes]) -> None:
    async def main() -> None:
        async with tunnel_pair(NativeTunnelEngine) as pair:
            pair.connect()
            tunnel = await pair.client.up
            near, engine_end = tcp_pair()
            with pytest.raises(LocalProtocolError):
                tunnel.open_stream((*CONNECT, field), engine_end, StreamLog())
            assert engine_end.fileno() >= 0, "the socket stays the caller's"
            assert tunnel.active_streams == 0
            near.close()
            engine_end.close()
            await pair.join()

    run(main())


def test_a_callback_that_raises_is_reported_and_stops_no_other() -> None:
    class Raises:
        def relay_closed(self, end: End) -> None:
            raise RuntimeError("a defect of ours")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[object] = []
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        engine = NativeTunnelEngine(loop, TunnelSettings())
        log = RelayLog()
        ends = []
        for events in (Raises(), log):
            (near, second), (third, far) = tcp_pair(), tcp_pair()
            engine.relay(second, third, events).abort("enough")
            ends += [near, far]
        assert (await log.closed).detail == "enough"
        await engine.aclose()
        assert [str(error) for error in reported] == ["a defect of ours"]
        for sock in ends:
            sock.close()

    uvloop.run(main())


def test_accepting_while_the_engine_closes_ends_the_stream() -> None:
    async def main() -> None:
        async with tunnel_pair(NativeTunnelEngine) as pair:
            pair.connect()
            near, engine_end = tcp_pair()
            (await pair.client.up).open_stream(CONNECT, engine_end, StreamLog())
            request = await pair.server.requests.get()
            closing = asyncio.get_running_loop().create_task(pair.engine.aclose())
            await asyncio.sleep(0)
            far, far_engine = tcp_pair()
            log = StreamLog()
            request.accept((), far_engine, log)
            await closing
            assert (await log.closed).reason is EndReason.PEER_RESET
            assert far_engine.fileno() == -1
            for sock in (near, engine_end, far):
                sock.close()

    run(main())
