"""Doors, lanes and stocks of engines that have them."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from mesh.model.address import parse_ip
from mesh.tunnel.contract import EndReason, TunnelSettings
from mesh.tunnel.lanes import (
    LaneEnd,
)
from tests.contract.tunnel.laned import AUTHORITY, LaneLog, service
from tests.support.tunnel import Joined, run


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
