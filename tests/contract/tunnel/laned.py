"""A service whose engine has a door, a lane and a stock, and logs of what they say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from mesh.model.address import IPAddress, SocketAddress, parse_ip
from mesh.tunnel.contract import EndReason, TunnelSettings
from mesh.tunnel.lanes import (
    FarRoute,
    Lane,
    LaneEnd,
    LaneEngine,
    LaneRecord,
    LaneTally,
    Stock,
)
from mesh.tunnel.native.engine import NativeTunnelEngine
from tests.support.tunnel import App, Pair, StreamLog, tcp_pair, tunnel_pair

AUTHORITY = b"192.0.2.1:80"
LOCALHOST = parse_ip("127.0.0.1")


class LaneLog:
    """Events of one lane."""

    def __init__(self) -> None:
        self.opened = self.sent = self.received = self.untold = 0
        self.ended: Counter[LaneEnd] = Counter()
        self.records: list[LaneRecord] = []
        self.gone = asyncio.Event()
        self.changed = asyncio.Condition()
        self._notices: set[asyncio.Task[None]] = set()

    def lane_tally(self, tally: LaneTally) -> None:
        assert not self.gone.is_set()
        self.opened += tally.opened
        self.ended.update(tally.ended)
        self.sent += tally.sent
        self.received += tally.received
        self.untold += tally.untold
        self._notify()

    def lane_ended(self, record: LaneRecord) -> None:
        assert not self.gone.is_set()
        self.records.append(record)
        self._notify()

    def lane_returned(self, sock: socket.socket, client_port: int) -> None:
        raise AssertionError("only near lanes give connections back")

    def lane_gone(self) -> None:
        self.gone.set()

    async def wait_records(self, count: int) -> list[LaneRecord]:
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.records) >= count)
        return self.records

    async def wait_ended(self, count: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.ended.total() >= count)

    def _notify(self) -> None:
        async def notify() -> None:
            async with self.changed:
                self.changed.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)


class StockLog:
    def __init__(self) -> None:
        self.wanted = asyncio.Event()

    def stock_wanted(self) -> None:
        self.wanted.set()


@dataclass
class Service:
    """An application that a far lane leads to."""

    pair: Pair
    listener: socket.socket
    lanes: LaneEngine
    stock_log: StockLog
    stock: Stock
    apps: list[App] = field(default_factory=list)

    @property
    def address(self) -> SocketAddress:
        return SocketAddress(LOCALHOST, self.listener.getsockname()[1])

    def refill(self, count: int = 1) -> None:
        made = [socket.socket() for _ in range(count)]
        for sock in made:
            sock.setblocking(False)
        self.stock.add(made)

    async def lay(
        self, log: LaneLog, authority: bytes = AUTHORITY, bind: IPAddress | None = None
    ) -> Lane:
        lane = self.lanes.far(
            FarRoute(
                tunnel=await self.pair.server.up,
                authority=authority,
                target=self.address,
                bind=bind,
                stock=self.stock,
                client=b"10.0.0.1",
            ),
            log,
        )
        assert lane is not None
        return lane

    async def open(self) -> tuple[App, StreamLog]:
        """A client's stream, not awaited."""
        near, engine_end = tcp_pair()
        # The engine's end comes back where a stream is refused.
        self.pair.sockets += (near, engine_end)
        log = StreamLog()
        headers = [
            (b":method", b"CONNECT"),
            (b":authority", AUTHORITY),
            (b"forwarded", b'for="10.0.0.1:4711";host=a.example'),
        ]
        (await self.pair.client.up).open_stream(headers, engine_end, log)
        return App(near), log

    async def accept(self) -> App:
        sock, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        self.pair.sockets.append(sock)
        return App(sock)

    async def talk(self) -> None:
        """One connection there and back, ended by both sides."""
        near, log = await self.open()
        far = await self.accept()
        await near.send(b"question")
        assert await far.receive_exactly(8) == b"question"
        await far.send(b"answer")
        assert await near.receive_exactly(6) == b"answer"
        near.finish()
        assert await far.receive() == b""
        far.close()
        assert await near.receive() == b""
        assert (await log.closed).reason is EndReason.DONE
        near.close()


@contextlib.asynccontextmanager
async def service(settings: TunnelSettings | None = None) -> AsyncIterator[Service]:
    async with tunnel_pair(NativeTunnelEngine, settings or TunnelSettings()) as pair:
        pair.connect()
        assert pair.engine.lanes is not None
        log = StockLog()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            yield Service(
                pair=pair,
                listener=listener,
                lanes=pair.engine.lanes,
                stock_log=log,
                stock=pair.engine.lanes.stock(log),
            )
