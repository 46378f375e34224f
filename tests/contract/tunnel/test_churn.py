"""Connections that live and die at random: each hears of its end once, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket

import pytest

from mesh.tunnel.contract import (
    End,
    Headers,
    Loss,
    Stream,
    StreamRequest,
    Tunnel,
    TunnelEngine,
    TunnelSettings,
)
from tests.support.certs import TestCa
from tests.support.tunnel import CLIENT, CONNECT, SERVER, App, EngineFactory, run, tcp_pair

_SETTINGS = TunnelSettings(
    max_concurrent_streams=20, stream_window_bytes=65535, connection_window_bytes=1 << 20
)
_TUNNELS = 6
_STREAMS = 25


class _Lives:
    """Who has not heard of its end yet."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.living: set[object] = set()
        self.apps: set[asyncio.Task[None]] = set()
        self.over = asyncio.Event()

    def begin(self, who: object) -> None:
        self.living.add(who)
        self.over.clear()

    def end(self, who: object) -> None:
        self.living.remove(who)  # a second end is an error
        if not self.living:
            self.over.set()

    def start_app(self, sock: socket.socket) -> None:
        # Outlives whatever started it; the test gathers them all.
        self.apps.add(asyncio.get_running_loop().create_task(self._app(sock)))

    async def _app(self, sock: socket.socket) -> None:
        """Send and receive for a while, then leave: in order, with a reset, or in between."""
        app, dice = App(sock), self.random
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(dice.random() * 0.1):
                await app.send(bytes(dice.choice((1, 1000, 300_000))))
                if dice.random() < 0.7:
                    app.finish()
                while await app.receive(dice.choice((1000, 65536))):
                    pass
        if dice.random() < 0.3:
            app.reset()
        else:
            app.close()


class _StreamLife:
    def __init__(self, lives: _Lives, sock: socket.socket | None = None) -> None:
        self._lives = lives
        self._sock = sock
        lives.begin(self)

    def stream_opened(self, headers: Headers) -> None:
        assert self in self._lives.living

    def stream_refused(self, status: int, headers: Headers, detail: str) -> None:
        self._lives.end(self)
        if self._sock is not None:
            self._sock.close()

    def stream_closed(self, end: End) -> None:
        self._lives.end(self)


class _TunnelLife:
    def __init__(self, lives: _Lives) -> None:
        self._lives = lives
        self.up: asyncio.Future[Tunnel] = asyncio.get_running_loop().create_future()
        lives.begin(self)

    def tunnel_up(self, tunnel: Tunnel) -> None:
        self.up.set_result(tunnel)

    def tunnel_draining(self, tunnel: Tunnel) -> None: ...

    def stream_slot_free(self, tunnel: Tunnel) -> None:
        assert tunnel.can_open

    def tunnel_lost(self, tunnel: Tunnel, loss: Loss) -> None:
        self._lives.end(self)

    def stream_requested(self, tunnel: Tunnel, request: StreamRequest) -> None:
        chance = self._lives.random.random()
        if chance < 0.1:
            request.refuse(401)
        elif chance < 0.2:
            request.decline()
        elif chance < 0.6:
            self._accept(request)
        elif chance < 0.95:  # and the others are never answered
            asyncio.get_running_loop().call_soon(self._accept, request)

    def _accept(self, request: StreamRequest) -> None:
        near, far = tcp_pair()
        self._lives.start_app(near)
        request.accept((), far, _StreamLife(self._lives))


def _open(lives: _Lives, tunnel: Tunnel) -> Stream:
    near, far = tcp_pair()
    lives.start_app(near)
    return tunnel.open_stream(CONNECT, far, _StreamLife(lives, far))


async def _one_tunnel(lives: _Lives, engine: TunnelEngine, ca: TestCa) -> None:
    near, far = tcp_pair()
    ours, theirs = _TunnelLife(lives), _TunnelLife(lives)
    engine.server(far, ca.issue(SERVER), theirs)
    client = engine.client(near, ca.issue(CLIENT), frozenset((SERVER,)), ours)
    await ours.up
    for _ in range(_STREAMS):
        if client.can_open:
            stream = _open(lives, client)
            if lives.random.random() < 0.1:
                stream.abort("changed my mind")
        if lives.random.random() < 0.5:
            await asyncio.sleep(0)
    side = lives.random.choice((client, await theirs.up))
    if lives.random.random() < 0.5:
        side.drain(lives.random.random() * 0.1)
    else:
        side.abort("enough")


@pytest.mark.parametrize("seed", [1, 2])
def test_every_end_is_told_once_and_nothing_is_left(factory: EngineFactory, seed: int) -> None:
    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        lives, ca = _Lives(seed), TestCa()
        engine = factory(asyncio.get_running_loop(), _SETTINGS)
        async with asyncio.TaskGroup() as group:
            for _ in range(_TUNNELS):
                group.create_task(_one_tunnel(lives, engine, ca))
        await lives.over.wait()
        await engine.aclose()
        await asyncio.gather(*lives.apps)
        assert len(os.listdir("/proc/self/fd")) == before

    run(main())
