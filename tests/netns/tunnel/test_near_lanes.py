"""Near lanes of the native engine: which endpoint takes a redirected connection."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest

from mesh.balance.least_loaded import choose_least_loaded
from mesh.model.address import SocketAddress, parse_ip
from mesh.tunnel.contract import StreamRequest, Tunnel, TunnelSettings
from mesh.tunnel.lanes import Lane, LaneEnd, LaneRecord, LaneTally, NearRoute
from mesh.tunnel.native.engine import NativeTunnelEngine
from tests.netns.tunnel.redirected import original_destination
from tests.support.certs import TestCa
from tests.support.tunnel import CLIENT, CONNECT, SERVER, App, TunnelLog, run

pytestmark = pytest.mark.root

DIALLED = SocketAddress(parse_ip("192.0.2.80"), 80)
GROUP = 7
HEAD = b"\0".join(
    (b":method", b"CONNECT", b":authority", b"192.0.2.1:80", b"forwarded", b'for="10.0.0.1:')
)


@pytest.fixture(autouse=True)
def redirected() -> Iterator[None]:
    with original_destination(DIALLED):
        yield


@dataclass(frozen=True)
class Arrival:
    """Where a connection came to: an endpoint, or (-1) the door, maybe with what was drawn."""

    endpoint: int
    request: StreamRequest | None = None
    drawn: int | None = None


class DoorLog:
    def __init__(self, world: World) -> None:
        self._world = world

    def door_accepted(self, sock: socket.socket, client_port: int, drawn: int | None) -> None:
        self._world.sockets.append(sock)
        self._world.arrivals.put_nowait(Arrival(-1, drawn=drawn))

    def door_failed(self, error: OSError) -> None:
        raise AssertionError(error)


class ServerLog(TunnelLog):
    """Events of an endpoint's end of its tunnel."""

    def __init__(self, world: World, endpoint: int) -> None:
        super().__init__()
        self._world = world
        self._endpoint = endpoint

    def stream_requested(self, tunnel: Tunnel, request: StreamRequest) -> None:
        self._world.arrivals.put_nowait(Arrival(self._endpoint, request))


class NearLog:
    """Events of one lane."""

    def __init__(self) -> None:
        self.opened = 0
        self.refused = asyncio.Queue[LaneRecord]()
        self.returned = asyncio.Queue[socket.socket]()
        self.gone = asyncio.Event()

    def lane_tally(self, tally: LaneTally) -> None:
        self.opened += tally.opened

    def lane_ended(self, record: LaneRecord) -> None:
        if not record.established:
            self.refused.put_nowait(record)

    def lane_returned(self, sock: socket.socket, client_port: int) -> None:
        self.returned.put_nowait(sock)

    def lane_gone(self) -> None:
        self.gone.set()


@dataclass
class Endpoint:
    """A tunnel to an address of its own, and the lane that leads there."""

    client: TunnelLog
    server: ServerLog
    log: NearLog = field(default_factory=NearLog)
    lane: Lane | None = None


@dataclass
class World:
    engine: NativeTunnelEngine
    listener: socket.socket
    endpoints: list[Endpoint] = field(default_factory=list)
    arrivals: asyncio.Queue[Arrival] = field(default_factory=asyncio.Queue)
    ca: TestCa = field(default_factory=TestCa)
    sockets: list[socket.socket] = field(default_factory=list)

    async def connect(self, address: str) -> Endpoint:
        with socket.create_server((address, 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
        for sock in (near, far):
            sock.setblocking(False)
        found = Endpoint(TunnelLog(), ServerLog(self, len(self.endpoints)))
        self.engine.server(far, self.ca.issue(SERVER), found.server)
        self.engine.client(near, self.ca.issue(CLIENT), frozenset((SERVER,)), found.client)
        await asyncio.gather(found.client.up, found.server.up)
        return found

    async def lay(self, index: int, count: int, limit: int = 1000) -> None:
        endpoint = self.endpoints[index]
        assert self.engine.lanes is not None
        endpoint.lane = self.engine.lanes.near(
            NearRoute(
                group=GROUP,
                dialled=DIALLED,
                endpoint=index,
                endpoints=count,
                tunnels=[await endpoint.client.up],
                limit=limit,
                head=HEAD,
                tail=b'"',
                fields=3,
            ),
            endpoint.log,
        )
        assert endpoint.lane is not None
        await self.engine.lanes.listed(1)  # what was asked for before it is done by then

    async def dial(self) -> App:
        sock = socket.create_connection(self.listener.getsockname())
        sock.setblocking(False)
        self.sockets.append(sock)
        return App(sock)

    async def taken(self) -> int:
        """Which endpoint a new connection went to, -1 for the door. All stay open."""
        await self.dial()
        arrival = await self.arrivals.get()
        if arrival.request is not None:
            near, far = socket.socketpair()
            self.sockets.append(near)
            arrival.request.accept((), far, Silent())
        return arrival.endpoint

    async def request(self) -> StreamRequest:
        """The next one that an endpoint got."""
        arrival = await self.arrivals.get()
        assert arrival.request is not None
        return arrival.request


class Silent:
    """Events of a stream that nobody looks at."""

    def stream_opened(self, headers: object) -> None: ...
    def stream_refused(self, status: int, headers: object, detail: str) -> None: ...
    def stream_closed(self, end: object) -> None: ...


@contextlib.asynccontextmanager
async def world(addresses: int) -> AsyncIterator[World]:
    engine = NativeTunnelEngine(asyncio.get_running_loop(), TunnelSettings())
    assert engine.lanes is not None
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.setblocking(False)
        it = World(engine, listener)
        try:
            engine.lanes.door(GROUP, listener, DoorLog(it))
            for number in range(addresses):
                it.endpoints.append(await it.connect(f"127.0.0.{number + 2}"))
            yield it
        finally:
            await engine.aclose()
            for sock in it.sockets:
                sock.close()


def test_the_engine_chooses_as_python_does() -> None:
    """The same number of connections, all of which stay: shares and evenness agree."""
    count, total = 4, 240

    async def main() -> None:
        async with world(count) as it:
            for index in range(count):
                await it.lay(index, count)
            taken = Counter([await it.taken() for _ in range(total)])
            reference = Counter[int]()
            chance = random.Random(1)
            for _ in range(total):
                reference[choose_least_loaded(range(count), reference.__getitem__, chance)] += 1
            spread = max(reference.values()) - min(reference.values())
            assert sorted(taken) == list(range(count))
            # Two random ones keep within a few of each other; chance alone would be 20 apart.
            assert max(taken.values()) - min(taken.values()) <= spread + 6, taken

    run(main())


def test_an_endpoint_with_many_connections_is_left_alone() -> None:
    async def main() -> None:
        async with world(2) as it:
            await it.lay(0, 2)
            await it.lay(1, 2)
            first = [await it.taken() for _ in range(20)]
            busier = 0 if first.count(0) >= first.count(1) else 1
            for _ in range(20):  # Python's streams count too
                near, far = socket.socketpair()
                it.sockets += (near, far)
                (await it.endpoints[busier].client.up).open_stream(CONNECT, far, Silent())
                await it.request()
            assert [await it.taken() for _ in range(15)] == [1 - busier] * 15

    run(main())


def test_what_is_drawn_but_not_laid_goes_to_python_with_the_draw() -> None:
    async def main() -> None:
        async with world(1) as it:
            await it.lay(0, 3)
            found = Counter[int | None]()
            for _ in range(60):
                await it.dial()
                arrival = await it.arrivals.get()
                if arrival.request is None:
                    assert arrival.drawn in (1, 2)
                    found[arrival.drawn] += 1
                else:
                    arrival.request.refuse(503)
                    await it.endpoints[0].log.refused.get()
                    found[0] += 1
            assert min(found[i] for i in range(3)) >= 5, found

    run(main())


def test_an_endpoint_that_is_gone_is_chosen_no_more() -> None:
    async def main() -> None:
        async with world(2) as it:
            await it.lay(0, 2)
            await it.lay(1, 2)
            assert {await it.taken() for _ in range(20)} == {0, 1}
            # The snapshot without it: everything is retired, and the rest laid anew.
            for endpoint in it.endpoints:
                assert endpoint.lane is not None
                endpoint.lane.retire()
            assert await it.taken() == -1
            await it.lay(0, 1)
            assert [await it.taken() for _ in range(20)] == [0] * 20

    run(main())


def test_a_tunnel_without_room_leaves_the_connection_to_python() -> None:
    async def main() -> None:
        async with world(1) as it:
            await it.lay(0, 1, limit=2)
            assert [await it.taken() for _ in range(4)] == [0, 0, -1, -1]

    run(main())


def test_denied_is_denied_and_lost_comes_back() -> None:
    async def main() -> None:
        async with world(1) as it:
            await it.lay(0, 1)
            app = await it.dial()
            (await it.request()).refuse(401)
            record = await it.endpoints[0].log.refused.get()
            assert (record.end, record.status) == (LaneEnd.REFUSED, 401)
            with pytest.raises(ConnectionResetError):
                await app.receive()
            app = await it.dial()
            await it.request()
            (await it.endpoints[0].server.up).abort("crashed")
            # Nothing was read from the application: Python tries again.
            with await it.endpoints[0].log.returned.get() as back:
                assert back.getsockname() == app.sock.getpeername()

    run(main())
