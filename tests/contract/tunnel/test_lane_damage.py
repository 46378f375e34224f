"""The damaged conversations of `test_damage`, where a lane takes what the client asks for."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from pathlib import Path

import pytest

from mesh.model.address import SocketAddress, parse_ip
from mesh.tunnel.contract import StreamRequest, Tunnel, TunnelSettings
from mesh.tunnel.lanes import FarRoute, LaneEngine, LaneRecord, LaneTally, Stock
from mesh.tunnel.native.engine import NativeTunnelEngine
from tests.contract.tunnel.test_damage import CORPUS, VARIANTS, damage
from tests.support import raw_h2 as h2
from tests.support.certs import TestCa
from tests.support.raw_h2 import raw_peer
from tests.support.tunnel import CLIENT, SERVER, TunnelLog, run, tcp_pair

AUTHORITY = b"192.0.2.1:80"
STOCK = 40


class LaneLog:
    """Events of a lane, and of the stock behind it."""

    stock: Stock

    def __init__(self) -> None:
        self.opened = self.ended = 0
        self.gone = asyncio.Event()

    def stock_wanted(self) -> None:
        made = [socket.socket() for _ in range(STOCK)]
        for sock in made:
            sock.setblocking(False)
        self.stock.add(made)

    def lane_tally(self, tally: LaneTally) -> None:
        self.opened += tally.opened
        self.ended += sum(tally.ended.values())

    def lane_ended(self, record: LaneRecord) -> None: ...
    def lane_returned(self, sock: socket.socket, client_port: int) -> None:
        raise AssertionError("only near lanes give connections back")

    def lane_gone(self) -> None:
        self.gone.set()


class Laned(TunnelLog):
    """Lays a lane on its tunnel; refuses what the lane does not take."""

    def __init__(self, lanes: LaneEngine, target: SocketAddress) -> None:
        super().__init__()
        self.lane = LaneLog()
        self._lanes = lanes
        self._target = target

    def tunnel_up(self, tunnel: Tunnel) -> None:
        self.lane.stock = self._lanes.stock(self.lane)
        self.lane.stock_wanted()
        route = FarRoute(
            tunnel=tunnel,
            authority=AUTHORITY,
            target=self._target,
            bind=None,
            stock=self.lane.stock,
            client=b"10.0.0.1",
        )
        assert self._lanes.far(route, self.lane) is not None
        super().tunnel_up(tunnel)

    def stream_requested(self, tunnel: Tunnel, request: StreamRequest) -> None:
        request.refuse(503)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def converse(ca: TestCa, said: list[bytes]) -> list[LaneLog]:
    """Each of these on a tunnel of its own, to one engine."""
    engine = NativeTunnelEngine(asyncio.get_running_loop(), TunnelSettings(handshake_timeout_s=5.0))
    assert engine.lanes is not None
    logs: list[Laned] = []
    server, client = ca.issue(SERVER), ca.issue(CLIENT)
    application = await asyncio.start_server(_echo, "127.0.0.1", 0)
    target = SocketAddress(parse_ip("127.0.0.1"), application.sockets[0].getsockname()[1])
    try:
        for data in said:
            near, far = tcp_pair()
            logs.append(Laned(engine.lanes, target))
            engine.server(far, server, logs[-1])
            async with raw_peer(near, client) as peer:
                peer.write(h2.PREFACE + h2.frame(h2.SETTINGS))
                await logs[-1].up
                with contextlib.suppress(ConnectionError):
                    await peer.send(data)
            await logs[-1].lost
            # Nothing of a tunnel stays behind: its lane ends with its last connection.
            await logs[-1].lane.gone.wait()
        assert engine.lanes.connections == 0
    finally:
        await engine.aclose()
        application.close()
        await application.wait_closed()
    return [log.lane for log in logs]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_lanes_survive_damaged_conversations(path: Path) -> None:
    said = bytes.fromhex(path.read_text(encoding="ascii"))
    source = random.Random(path.stem)
    damaged = [damage(said, source) for _ in range(VARIANTS)]

    async def main() -> None:
        for lane in await converse(TestCa(), [said, *damaged, said]):
            assert lane.ended == lane.opened

    run(main())
