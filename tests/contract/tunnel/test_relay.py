"""Plain relays."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from mesh.tunnel.contract import EndReason, TunnelSettings
from tests.support.tunnel import App, EngineFactory, RelayLog, run, tcp_pair


def test_bytes_and_half_close(factory: EngineFactory) -> None:
    async def main() -> None:
        engine = factory(asyncio.get_running_loop(), TunnelSettings())
        (near, first), (far, second) = tcp_pair(), tcp_pair()
        log = RelayLog()
        engine.relay(first, second, log)
        payload = bytes(range(256)) * 40_000
        async with asyncio.TaskGroup() as group:
            group.create_task(App(near).send(payload))
            received = group.create_task(App(far).receive_exactly(len(payload)))
        assert received.result() == payload
        near.shutdown(1)
        assert await App(far).receive() == b""
        await App(far).send(b"answer")
        far.close()
        assert await App(near).receive_all() == b"answer"
        end = await log.closed
        assert (end.reason, end.bytes_out, end.bytes_in) == (EndReason.DONE, len(payload), 6)
        near.close()
        await engine.aclose()

    run(main())


@pytest.mark.parametrize("first_resets", [True, False])
def test_reset(factory: EngineFactory, first_resets: bool) -> None:
    async def main() -> None:
        engine = factory(asyncio.get_running_loop(), TunnelSettings())
        (near, first), (far, second) = tcp_pair(), tcp_pair()
        log = RelayLog()
        engine.relay(first, second, log)
        resetting, other = (near, far) if first_resets else (far, near)
        App(resetting).reset()
        with pytest.raises(ConnectionResetError):
            await App(other).receive()
        wanted = EndReason.APPLICATION_RESET if first_resets else EndReason.PEER_RESET
        assert (await log.closed).reason is wanted
        other.close()
        await engine.aclose()

    run(main())


def test_slow_reader_stops_the_writer(factory: EngineFactory) -> None:
    async def main() -> None:
        engine = factory(asyncio.get_running_loop(), TunnelSettings())
        (near, first), (far, second) = tcp_pair(), tcp_pair()
        log = RelayLog()
        relay = engine.relay(first, second, log)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    await App(near).send(bytes(1 << 16))
        assert relay.bytes_out < 32 << 20  # what the kernel's buffers hold
        relay.abort("enough")
        assert not log.closed.done()
        end = await log.closed
        assert (end.reason, end.detail) == (EndReason.ABORTED, "enough")
        near.close()
        far.close()
        await engine.aclose()

    run(main())


def test_what_follows_an_urgent_byte_is_not_held_back(factory: EngineFactory) -> None:
    """The kernel ends a read at the urgent mark, whatever waits behind it."""

    async def main() -> None:
        engine = factory(asyncio.get_running_loop(), TunnelSettings())
        (near, first), (far, second) = tcp_pair(), tcp_pair()
        second.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        log = RelayLog()
        engine.relay(first, second, log)
        # More than the far side takes: all of it has arrived before the mark is reached.
        payload = bytes(1 << 21)
        await App(near).send(payload)
        assert near.send(b"!", socket.MSG_OOB) == 1
        await App(near).send(b"behind")
        received = await App(far).receive_exactly(len(payload) + 6)
        assert received[-6:] == b"behind"
        near.close()
        far.close()
        await log.closed
        await engine.aclose()

    run(main())
