"""Doors, lanes and stocks of engines that have them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

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
from tests.support.tunnel import App, Joined, Pair, StreamLog, run, tcp_pair, tunnel_pair

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


def test_a_lane_carries_connections_without_asking_and_counts_them() -> None:
    async def main() -> None:
        async with service() as it:
            log = LaneLog()
            await it.lay(log)
            it.refill()
            # One socket serves them all: an ended one is as good as new.
            for _ in range(5):
                await it.talk()
            await log.wait_ended(5)
            records = log.records
            assert it.pair.server.requests.empty()
            assert (log.opened, log.ended) == (5, {LaneEnd.DONE: 5})
            assert (log.sent, log.received, log.untold) == (40, 30, 0)
            assert {r.client_port for r in records} == {4711}
            assert {(r.bytes_in, r.bytes_out, r.end) for r in records} == {(8, 6, LaneEnd.DONE)}
            assert all(r.established and r.lasted_s >= 0 for r in records)
            assert all(0 <= time.monotonic() - r.began_at < 60 for r in records)

    run(main())


def test_a_socket_that_serves_again_forgets_whose_address_it_had() -> None:
    async def main() -> None:
        async with service() as it:
            it.refill()  # one, for both
            for bind, seen in ((parse_ip("127.0.0.2"), "127.0.0.2"), (None, "127.0.0.1")):
                log = LaneLog()
                lane = await it.lay(log, bind=bind)
                near, stream = await it.open()
                far = await it.accept()
                assert it.pair.sockets[-1].getpeername()[0] == seen
                near.finish()
                assert await far.receive() == b""
                far.close()
                assert await near.receive() == b""
                assert (await stream.closed).reason is EndReason.DONE
                near.close()
                lane.retire()
                await log.gone.wait()

    run(main())


def test_no_more_is_told_than_allowed_but_all_is_counted() -> None:
    async def main() -> None:
        async with service(TunnelSettings(records_per_s=0.4)) as it:
            log = LaneLog()
            await it.lay(log)
            it.refill()
            for _ in range(6):
                await it.talk()
            await log.wait_ended(6)
            assert log.untold > 0
            assert len(log.records) + log.untold == 6

    run(main())


def test_a_retired_lane_takes_no_more_and_goes_with_its_last_connection() -> None:
    async def main() -> None:
        async with service() as it:
            log = LaneLog()
            lane = await it.lay(log)
            it.refill()
            near, stream = await it.open()
            far = await it.accept()
            lane.retire()
            lane.retire()
            await it.open()
            request = await it.pair.server.requests.get()
            request.refuse(503)
            assert not log.gone.is_set()
            await near.send(b"still")
            assert await far.receive_exactly(5) == b"still"
            far.close()
            near.finish()
            await stream.closed
            await log.gone.wait()
            assert it.lanes.connections == 0

    run(main())


def test_cutting_a_lane_ends_what_it_carries() -> None:
    async def main() -> None:
        async with service() as it:
            log = LaneLog()
            lane = await it.lay(log)
            it.refill(2)
            near, stream = await it.open()
            far = await it.accept()
            await stream.opened
            lane.cut("policy changed")
            assert (await stream.closed).reason is EndReason.PEER_RESET
            with pytest.raises(ConnectionResetError):
                await far.receive()
            with pytest.raises(ConnectionResetError):
                await near.receive()
            await log.gone.wait()
            assert [r.end for r in log.records] == [LaneEnd.CUT]
            assert log.records[0].detail == "policy changed"

    run(main())


def test_an_application_that_refuses_is_a_503() -> None:
    async def main() -> None:
        async with service() as it:
            log = LaneLog()
            await it.lay(log)
            it.refill()
            it.listener.close()
            _, stream = await it.open()
            assert (await stream.refused)[0] == 503
            (record,) = await log.wait_records(1)
            assert (record.end, record.established) == (LaneEnd.FAILED, False)
            assert "refused" in record.detail.lower()
            assert log.opened == 0

    run(main())


@pytest.mark.parametrize("reason", ["empty stock", "other authority", "dropped stock"])
def test_what_no_lane_takes_is_asked(reason: str) -> None:
    async def main() -> None:
        async with service() as it:
            await it.lay(LaneLog(), b"192.0.2.1:81" if reason == "other authority" else AUTHORITY)
            if reason != "empty stock":
                it.refill()
            if reason == "dropped stock":
                it.stock.drop()
            _, stream = await it.open()
            request = await it.pair.server.requests.get()
            request.refuse(401)
            assert (await stream.refused)[0] == 401
            if reason == "empty stock":
                await it.stock_log.wanted.wait()

    run(main())


def test_a_lost_tunnel_takes_its_lanes_along() -> None:
    async def main() -> None:
        async with service() as it:
            log = LaneLog()
            await it.lay(log)
            it.refill()
            near, stream = await it.open()
            far = await it.accept()
            await stream.opened
            (await it.pair.server.up).abort("gone")
            await log.gone.wait()
            assert [r.end for r in log.records] == [LaneEnd.TUNNEL_LOST]
            for app in (near, far):
                with pytest.raises(ConnectionResetError):
                    await app.receive()
            # Too late: it is gone at once, and nobody is kept waiting for it.
            late = LaneLog()
            await it.lay(late)
            await late.gone.wait()

    run(main())


def test_open_connections_are_listed() -> None:
    async def main() -> None:
        async with service() as it:
            log = LaneLog()
            await it.lay(log)
            it.refill(3)
            for _ in range(3):
                _, stream = await it.open()
                await it.accept()
                await stream.opened
            first, second = await asyncio.gather(it.lanes.listed(10), it.lanes.listed(10))
            assert first == second
            assert [(lane, r.end) for lane, r in first] == [(log, None)] * 3
            assert len(await it.lanes.listed(2)) == 2
            assert it.lanes.connections == 3

    run(main())


def test_as_many_are_told_of_as_somebody_wants_to_see() -> None:
    async def main() -> None:
        async with service(TunnelSettings(records_per_s=0.0)) as it:
            log = LaneLog()
            await it.lay(log)
            it.refill()
            for _ in range(3):
                await it.talk()
            await log.wait_ended(3)
            assert (len(log.records), log.untold) == (0, 3)
            it.lanes.tell(1e9)
            for _ in range(5):
                await it.talk()
            await log.wait_ended(8)
            assert len(log.records) >= 4  # the first fills the bucket
            it.lanes.tell(0.0)
            told = len(log.records)
            for _ in range(3):
                await it.talk()
            await log.wait_ended(11)
            assert len(log.records) == told

    run(main())


def test_closing_the_engine_ends_everything() -> None:
    async def main() -> None:
        async with service() as it:
            await it.lay(LaneLog())
            it.refill(3)
            near, stream = await it.open()
            await it.accept()
            await stream.opened
            await it.pair.engine.aclose()
            assert await it.lanes.listed(5) == []
            it.refill()
            with pytest.raises(ConnectionResetError):
                await near.receive()

    run(main())


class DoorLog:
    def __init__(self) -> None:
        self.accepted = asyncio.Queue[tuple[socket.socket, int]]()
        self.drawn: list[int | None] = []
        self.failed = asyncio.Event()

    def door_accepted(self, sock: socket.socket, client_port: int, drawn: int | None) -> None:
        self.drawn.append(drawn)
        self.accepted.put_nowait((sock, client_port))

    def door_failed(self, error: OSError) -> None:
        self.failed.set()


def test_a_door_hands_over_what_no_lane_takes() -> None:
    async def main() -> None:
        async with service() as it:
            log = DoorLog()
            door = it.lanes.door(1, it.listener, log)
            # Nobody redirected it, so it has no original destination.
            with socket.create_connection(it.listener.getsockname()) as client:
                sock, port = await log.accepted.get()
                with sock:
                    assert port == client.getsockname()[1]
                    assert sock.getpeername() == client.getsockname()
            door.close()
            door.close()
            with socket.create_connection(it.listener.getsockname()):
                (await it.accept()).close()
            assert log.accepted.empty()

    run(main())


def test_a_door_says_that_it_accepts_no_more() -> None:
    async def main() -> None:
        async with service() as it:
            log = DoorLog()
            it.lanes.door(1, it.listener, log)
            it.listener.shutdown(socket.SHUT_RDWR)
            await log.failed.wait()

    run(main())


def test_streams_of_python_and_of_lanes_share_a_tunnel() -> None:
    async def main() -> None:
        async with service() as it:
            joined: Joined = await it.pair.join()
            await it.lay(LaneLog())
            it.refill()
            await it.talk()
            await joined.near.send(b"beside")
            assert await joined.far.receive_exactly(6) == b"beside"

    run(main())
