"""Random conversations through near and far lanes end as they do through the Python engine.

Each is a list of steps made from a seed, in lock-step, so that what both applications see of it is
the same every time: bytes, ends, resets, bursts that wait for a reader. Many run at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import pytest

from mesh.model.address import SocketAddress, parse_ip
from mesh.tunnel.contract import (
    StreamRequest,
    Tunnel,
    TunnelEngine,
    TunnelSettings,
)
from mesh.tunnel.lanes import FarRoute, LaneEngine, LaneRecord, LaneTally, NearRoute, Stock
from mesh.tunnel.native.engine import NativeTunnelEngine
from mesh.tunnel.python_engine import PythonTunnelEngine
from tests.netns.tunnel.redirected import original_destination
from tests.support.tunnel import CONNECT, App, Pair, run, tcp_pair, tunnel_pair

pytestmark = pytest.mark.root

DIALLED = SocketAddress(parse_ip("192.0.2.80"), 80)
LOCALHOST = parse_ip("127.0.0.1")
AUTHORITY = b"192.0.2.1:80"
GROUP = 1
AT_ONCE = 24
NUMBER_BYTES = 4
SETTINGS = TunnelSettings(stream_window_bytes=65535, connection_window_bytes=1 << 20)


class Kind(StrEnum):
    SEND = "send"
    FINISH = "finish"
    RESET = "reset"


@dataclass(frozen=True)
class Step:
    kind: Kind
    by_client: bool
    size: int = 0


def conversation(seed: int) -> list[Step]:
    """Until both have ended it, or one has reset it."""
    dice = random.Random(seed)
    steps: list[Step] = []
    speaking = [True, False]
    while speaking:
        side = dice.choice(speaking)
        match dice.randrange(10):
            case 0:
                return [*steps, Step(Kind.RESET, side)]
            case 1 | 2 | 3:
                speaking.remove(side)
                steps.append(Step(Kind.FINISH, side))
            case 4:
                steps.append(Step(Kind.SEND, side, dice.randint(100_000, 600_000)))
            case _:
                steps.append(Step(Kind.SEND, side, dice.randint(1, 20_000)))
    return steps


async def held(client: App, server: App, seed: int) -> list[str]:
    """Hold a conversation; what was seen of it."""
    seen: list[str] = []
    dice = random.Random(seed)
    for step in conversation(seed):
        speaker, listener = (client, server) if step.by_client else (server, client)
        match step.kind:
            case Kind.SEND:
                data = dice.randbytes(step.size)
                async with asyncio.TaskGroup() as group:
                    group.create_task(speaker.send(data))
                    got = group.create_task(listener.receive_exactly(step.size))
                seen.append(f"{step.size} {'same' if got.result() == data else 'other'}")
            case Kind.FINISH:
                speaker.finish()
                seen.append(f"end {await listener.receive()!r}")
            case Kind.RESET:
                speaker.reset()
                seen.append(await what_comes(listener))
    client.close()
    server.close()
    return seen


async def what_comes(app: App) -> str:
    try:
        return f"came {await app.receive()!r}"
    except ConnectionResetError:
        return "reset"


class Route(Protocol):
    """A way from clients to the server's `listener`."""

    async def dial(self) -> App: ...


class Server:
    """Accepts connections and tells them apart by the number that each client begins with."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._apps: dict[int, asyncio.Future[App]] = {}

    def app(self, number: int) -> asyncio.Future[App]:
        return self._apps.setdefault(number, self._loop.create_future())

    async def serve(self, count: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                sock, _ = await self._loop.sock_accept(self._listener)
                group.create_task(self._greet(App(sock)))

    async def _greet(self, app: App) -> None:
        number = int.from_bytes(await app.receive_exactly(NUMBER_BYTES))
        self.app(number).set_result(app)


async def outcomes(route: Route, listener: socket.socket, seeds: range) -> list[list[str]]:
    """What was seen of the conversations, all of them held at once."""
    server = Server(listener)

    async def one(seed: int) -> list[str]:
        client = await route.dial()
        await client.send(seed.to_bytes(NUMBER_BYTES))
        return await held(client, await server.app(seed), seed)

    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(len(seeds)))
        tasks = [group.create_task(one(seed)) for seed in seeds]
    return [task.result() for task in tasks]


# -- the oracle ------------------------------------------------------------------------------


def python(loop: asyncio.AbstractEventLoop, settings: TunnelSettings) -> TunnelEngine:
    return PythonTunnelEngine(loop, settings, "nghttp2")


class Quiet:
    """Events of a stream that nobody looks at."""

    def stream_opened(self, headers: object) -> None: ...
    def stream_refused(self, status: int, headers: object, detail: str) -> None:
        raise AssertionError(detail)

    def stream_closed(self, end: object) -> None: ...


@dataclass
class Asked:
    """Every stream is decided by Python."""

    pair: Pair
    target: tuple[str, int]

    async def dial(self) -> App:
        near, engine_end = tcp_pair()
        (await self.pair.client.up).open_stream(CONNECT, engine_end, Quiet())
        return App(near)

    async def answer(self) -> None:
        while True:
            request: StreamRequest = await self.pair.server.requests.get()
            sock = socket.create_connection(self.target)
            sock.setblocking(False)
            request.accept((), sock, Quiet())


# -- lanes -----------------------------------------------------------------------------------


class Counted:
    """Events of a lane."""

    def __init__(self) -> None:
        self.opened = self.ended = 0
        self.all_ended = asyncio.Event()

    def lane_tally(self, tally: LaneTally) -> None:
        self.opened += tally.opened
        self.ended += sum(tally.ended.values())
        if self.ended == AT_ONCE:
            self.all_ended.set()

    def lane_ended(self, record: LaneRecord) -> None:
        assert record.established, record

    def lane_returned(self, sock: socket.socket, client_port: int) -> None:
        raise AssertionError("the tunnel has room")

    def lane_gone(self) -> None: ...


class NoDoor:
    def door_accepted(self, sock: socket.socket, client_port: int, drawn: int | None) -> None:
        raise AssertionError("there is a lane for it")

    def door_failed(self, error: OSError) -> None:
        raise AssertionError(error)


class Refill:
    """Gives the stock new sockets whenever it asks."""

    stock: Stock

    def stock_wanted(self) -> None:
        made = [socket.socket() for _ in range(AT_ONCE)]
        for sock in made:
            sock.setblocking(False)
        self.stock.add(made)


@dataclass
class Laned:
    """Nothing is decided by Python."""

    door: tuple[str, int]

    async def dial(self) -> App:
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self.door)
        return App(sock)


async def lay(lanes: LaneEngine, pair: Pair, target: SocketAddress) -> tuple[Counted, Counted]:
    near, far, refill = Counted(), Counted(), Refill()
    refill.stock = lanes.stock(refill)
    refill.stock_wanted()
    client: Tunnel = await pair.client.up
    head = b"\0".join((b":method", b"CONNECT", b":authority", AUTHORITY, b"forwarded", b'for="c:'))
    near_route = NearRoute(
        group=GROUP,
        dialled=DIALLED,
        endpoint=0,
        endpoints=1,
        tunnels=[client],
        limit=1000,
        head=head,
        tail=b'"',
        fields=3,
    )
    far_route = FarRoute(
        tunnel=await pair.server.up,
        authority=AUTHORITY,
        target=target,
        bind=None,
        stock=refill.stock,
        client=b"c",
    )
    assert lanes.near(near_route, near) is not None
    assert lanes.far(far_route, far) is not None
    await lanes.listed(1)  # what was asked for before it is done by then
    return near, far


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=AT_ONCE) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture(autouse=True)
def redirected() -> Iterator[None]:
    with original_destination(DIALLED):
        yield


async def expected(seeds: range) -> list[list[str]]:
    async with listening() as listener, tunnel_pair(python, SETTINGS) as pair:
        pair.connect()
        asked = Asked(pair, listener.getsockname())
        answering = asyncio.get_running_loop().create_task(asked.answer())
        try:
            return await outcomes(asked, listener, seeds)
        finally:
            answering.cancel()


@pytest.mark.parametrize("first", [0, 1000, pytest.param(2000, marks=pytest.mark.slow)])
def test_lanes_carry_what_the_python_engine_carries(first: int) -> None:
    seeds = range(first, first + AT_ONCE)

    async def main() -> None:
        wanted = await expected(seeds)
        async with (
            listening() as listener,
            listening() as front,
            tunnel_pair(NativeTunnelEngine, SETTINGS) as pair,
        ):
            pair.connect()
            assert pair.engine.lanes is not None
            target = SocketAddress(LOCALHOST, listener.getsockname()[1])
            near, far = await lay(pair.engine.lanes, pair, target)
            pair.engine.lanes.door(GROUP, front, NoDoor())
            found = await outcomes(Laned(front.getsockname()), listener, seeds)
            assert found == wanted
            for counted in (near, far):
                await counted.all_ended.wait()
                assert counted.opened == AT_ONCE

    run(main())


def test_the_schedules_have_everything() -> None:
    steps = [step for seed in range(AT_ONCE) for step in conversation(seed)]
    assert {(step.kind, step.by_client) for step in steps} == {
        (kind, side) for kind in Kind for side in (True, False)
    }
    assert max(step.size for step in steps) > SETTINGS.stream_window_bytes
