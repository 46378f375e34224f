"""Towards HTTP/2 servers: WebSockets (RFC 8441), and requests that wait for a stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from mesh.model.snapshot import MeshSnapshot
from mesh.model.traffic import CircuitLimits, TrafficPolicy
from tests.contract.http1.stage import Handler, run, serving
from tests.contract.waypoint.scene import Scene, Script, loopback, scene, service
from tests.contract.waypoint.test_traffic_policy import POLICY
from tests.contract.waypoint.test_websocket import ACCEPT, TEXT, UPGRADE, frame
from tests.contract.waypoint.test_websocket_h2 import ASK, Peer

EXTENDED = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL
STREAMS = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS
GET = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"


def server_link(extended: int = 1, streams: int = 100) -> h2.connection.H2Connection:
    """A server's side whose first SETTINGS say so."""
    link = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    values = {EXTENDED: extended, STREAMS: streams}
    link.local_settings = h2.settings.Settings(client=False, initial_values=values)
    link.initiate_connection()
    return link


@dataclass(slots=True)
class Server:
    """Speaks HTTP/2: tunnels give back what they get, other requests wait for `opened`.

    A connection that begins with HTTP/1 gets a 101 and the same echo.
    """

    extended: bool = True
    streams: int = 100
    heads: list[dict[str, str]] = field(default_factory=list)
    connections: int = 0
    waiting: int = 0
    most: int = 0
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(3)
        if first != b"PRI":
            head = first + await reader.readuntil(b"\r\n\r\n")
            self.heads.append({"line": head.split(b"\r\n")[0].decode()})
            writer.write(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n")
            writer.write(b"sec-websocket-accept: " + ACCEPT + b"\r\n\r\n")
            while data := await reader.read(65536):
                writer.write(data)
            return
        self.connections += 1
        link = server_link(int(self.extended), self.streams)
        writer.write(link.data_to_send())
        async with asyncio.TaskGroup() as tasks:
            data = first
            while data:
                for event in link.receive_data(data):
                    self._take(link, writer, event, tasks)
                writer.write(link.data_to_send())
                data = await reader.read(65536)

    def _take(
        self,
        link: h2.connection.H2Connection,
        writer: asyncio.StreamWriter,
        event: h2.events.Event,
        tasks: asyncio.TaskGroup,
    ) -> None:
        if isinstance(event, h2.events.RequestReceived):
            head = {name.decode(): value.decode() for name, value in event.headers}
            self.heads.append(head)
            if ":protocol" in head:
                answer = [(":status", "200"), ("sec-websocket-protocol", "chat")]
                link.send_headers(event.stream_id, answer)
            else:
                tasks.create_task(self._answer(link, writer, event.stream_id))
        elif isinstance(event, h2.events.DataReceived):
            link.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            link.send_data(event.stream_id, event.data)
        elif isinstance(event, h2.events.StreamEnded) and ":protocol" in self.heads[-1]:
            link.send_data(event.stream_id, b"bye", end_stream=True)

    async def _answer(
        self, link: h2.connection.H2Connection, writer: asyncio.StreamWriter, stream: int
    ) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await self.opened.wait()
        self.waiting -= 1
        link.send_headers(stream, [(":status", "200")], end_stream=True)
        writer.write(link.data_to_send())


@contextlib.asynccontextmanager
async def before(handler: Handler, policy: TrafficPolicy | None = None) -> AsyncIterator[Scene]:
    """A proxy before a server whose port is said to speak HTTP/2."""
    policies = {policy.key: policy} if policy is not None else {}
    snapshot = MeshSnapshot(revision=1, traffic_policies=policies)
    async with serving(handler) as port:
        web = service("web", loopback(port), app_protocol="kubernetes.io/h2c")
        async with scene(script=Script(services=(web,), snapshot=snapshot)) as here:
            yield here


async def settled(here: Scene) -> None:
    async with asyncio.timeout(30):
        while here.proxy.active:  # noqa: ASYNC110 - nothing tells a test of the end
            await asyncio.sleep(0.01)


# --- WebSocket ----------------------------------------------------------------------------------


def test_an_upgrade_of_http1_becomes_extended_connect() -> None:
    async def main() -> None:
        server = Server()
        async with before(server.handle) as here, await here.connect() as client:
            client.send(UPGRADE + frame(TEXT, b"early"))
            head = (await client.until(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 101 ")
            assert b"\r\nupgrade: websocket\r\n" in head
            assert b"\r\nsec-websocket-accept: " + ACCEPT.lower() + b"\r\n" in head
            assert b"\r\nsec-websocket-protocol: chat\r\n" in head
            assert await client.exactly(len(frame(TEXT, b"early"))) == frame(TEXT, b"early")
            big = b"*" * 200_000
            client.send(big)
            assert await client.exactly(len(big)) == big
            client.writer.write_eof()
            assert await client.read_all() == b"bye"
            await settled(here)
            (record,) = here.records
            assert (record.status, record.flag) == (101, "-")
        (asked,) = server.heads
        assert (asked[":method"], asked[":protocol"]) == ("CONNECT", "websocket")
        assert (asked[":path"], asked[":authority"]) == ("/echo", "web")
        assert "sec-websocket-key" not in asked
        assert asked["sec-websocket-version"] == "13"
        assert not {"connection", "upgrade"} & set(asked)

    run(main())


def test_from_http2_to_http2() -> None:
    async def main() -> None:
        server = Server()
        async with before(server.handle) as here, await here.connect_h2() as client:
            peer = Peer(client)
            await peer.settings()
            for stream in (1, 3):
                peer.status = 0
                peer.data, peer.ended = b"", False
                peer.link.send_headers(stream, ASK)
                peer.link.send_data(stream, b"hello", end_stream=True)
                peer.send()
                while not peer.ended:
                    await peer.read()
                assert (peer.status, peer.data) == (200, b"hellobye")
                assert "sec-websocket-accept" not in peer.headers
            await settled(here)
        assert server.connections == 1
        assert ["sec-websocket-key" in head for head in server.heads] == [False, False]

    run(main())


def test_a_server_without_extended_connect_is_asked_in_http1() -> None:
    async def main() -> None:
        server = Server(extended=False)
        async with before(server.handle) as here:
            for _ in range(2):  # the second time its SETTINGS are known already
                async with await here.connect() as client:
                    client.send(UPGRADE + b"hello")
                    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
                    assert await client.exactly(5) == b"hello"
            await settled(here)
        assert [head["line"] for head in server.heads] == ["GET /echo HTTP/1.1"] * 2
        assert server.connections == 1

    run(main())


def test_a_server_without_http2_is_asked_in_http1() -> None:
    async def main() -> None:
        seen: list[bytes] = []

        async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            first = await reader.readuntil(b"\r\n\r\n")
            seen.append(first)
            if first.startswith(b"PRI"):
                return
            writer.write(b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            writer.write(await reader.read(100))

        async with before(old) as here, await here.connect() as client:
            client.send(UPGRADE + b"hello")
            assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert await client.exactly(5) == b"hello"
        assert {head.split()[0] for head in seen[:-1]} == {b"PRI"}
        assert seen[-1].startswith(b"GET /echo HTTP/1.1\r\n")

    run(main())


def test_a_refusal_of_the_server_is_heard() -> None:
    async def main() -> None:
        async def no(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            link = server_link()
            writer.write(link.data_to_send())
            while data := await reader.read(65536):
                for event in link.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        link.send_headers(event.stream_id, [(":status", "403")], end_stream=True)
                writer.write(link.data_to_send())

        async with before(no) as here, await here.connect() as client:
            client.send(UPGRADE)
            assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 403 ")

    run(main())


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [2, 1])
def test_requests_beyond_the_connections_wait_for_a_stream(streams: int) -> None:
    async def main() -> None:
        server = Server(streams=streams)
        limits = CircuitLimits(max_connections=1)
        async with before(server.handle, replace(POLICY, limits=limits)) as here:
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(here.ask(GET))]
                async with asyncio.timeout(30):
                    while not server.waiting:  # noqa: ASYNC110 - its SETTINGS are known then
                        await asyncio.sleep(0.01)
                asked += [tasks.create_task(here.ask(GET)) for _ in range(6)]
                async with asyncio.timeout(30):
                    while here.proxy.active < 7 or server.waiting < streams:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                server.opened.set()
            assert [task.result()[:12] for task in asked] == [b"HTTP/1.1 200"] * 7
        assert server.connections == 1

    run(main())


def test_so_many_wait_and_no_more() -> None:
    async def main() -> None:
        server = Server(streams=1)
        limits = CircuitLimits(max_connections=1, max_pending=2)
        async with before(server.handle, replace(POLICY, limits=limits)) as here:
            async with asyncio.TaskGroup() as tasks:
                first = tasks.create_task(here.ask(GET))
                async with asyncio.timeout(30):
                    while not server.waiting:  # noqa: ASYNC110 - nothing tells a test of it
                        await asyncio.sleep(0.01)
                more = [tasks.create_task(here.ask(GET)) for _ in range(2)]
                async with asyncio.timeout(30):
                    while here.proxy.active < 3:  # noqa: ASYNC110 - nothing tells a test of it
                        await asyncio.sleep(0.01)
                assert (await here.ask(GET)).startswith(b"HTTP/1.1 503 ")
                assert here.records[-1].flag == "UO"
                server.opened.set()
            assert {task.result()[:12] for task in (first, *more)} == {b"HTTP/1.1 200"}

    run(main())
