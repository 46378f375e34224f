"""WebSocket over HTTP/2 (RFC 8441) towards the client, HTTP/1.1 towards the server."""

from __future__ import annotations

import asyncio

import h2.connection
import h2.events
import h2.settings

from tests.contract.http1.stage import Client, answering, run, stage
from tests.contract.waypoint.test_websocket import CLOSE, TEXT, echo, frame

ASK = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "http"),
    (":path", "/echo"),
    (":authority", "web"),
    ("sec-websocket-version", "13"),
]


class Peer:
    """One stream of a client by `h2`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.link = h2.connection.H2Connection()
        self.link.initiate_connection()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.data = b""
        self.ended = False
        self.reset = False

    def send(self) -> None:
        self._client.send(self.link.data_to_send())

    async def read(self) -> None:
        data = await asyncio.wait_for(self._client.reader.read(65536), 10)
        assert data, "the proxy closed the connection"
        for event in self.link.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.headers = {n.decode(): v.decode() for n, v in event.headers}
                self.status = int(self.headers[":status"])
            elif isinstance(event, h2.events.DataReceived):
                self.data += event.data
                self.link.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended = True
            elif isinstance(event, h2.events.StreamReset):
                self.reset = True
        self.send()

    async def settings(self) -> None:
        """Until the server said that it takes extended CONNECT."""
        self.send()
        key = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL
        while not self.link.remote_settings.get(key):
            await self.read()

    async def answered(self) -> None:
        while not self.status:
            await self.read()


def test_messages_travel_both_ways_and_each_direction_ends() -> None:
    async def main() -> None:
        async with echo() as here, await here.connect(here.port_h2) as client:
            peer = Peer(client)
            await peer.settings()
            peer.link.send_headers(1, ASK)
            peer.link.send_data(1, frame(TEXT, b"early"))
            peer.send()
            await peer.answered()
            assert peer.status == 200
            assert "sec-websocket-accept" not in peer.headers
            while len(peer.data) < 7:
                await peer.read()
            assert peer.data == b"\x81\x05early"
            big = b"*" * 50_000
            for start in range(0, 60_000, 15_000):
                peer.link.send_data(1, frame(TEXT, big)[start : start + 15_000])
            peer.send()
            while len(peer.data) < 7 + 4 + len(big):
                await peer.read()
            assert peer.data[7:] == b"\x81\x7e\xc3\x50" + big
            peer.link.send_data(1, frame(CLOSE, b"\x03\xe8"), end_stream=True)
            peer.send()
            while not peer.ended:
                await peer.read()
            assert peer.data.endswith(b"\x88\x02\x03\xe8")
            async with asyncio.timeout(10):
                while here.proxy.active:  # noqa: ASYNC110 - nothing tells a test of the end
                    await asyncio.sleep(0.01)
            assert here.records[-1].status == 101

    run(main())


def test_a_server_that_refuses_is_heard() -> None:
    async def main() -> None:
        refusal = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"
        seen: list[bytes] = []
        async with (
            stage(answering(refusal, seen=seen)) as here,
            await here.connect(here.port_h2) as client,
        ):
            peer = Peer(client)
            await peer.settings()
            peer.link.send_headers(1, ASK)
            peer.send()
            while not peer.ended:
                await peer.read()
            assert (peer.status, peer.data) == (403, b"no")
        assert seen[0].startswith(b"GET /echo HTTP/1.1\r\n")
        assert b"\r\nconnection: upgrade\r\nupgrade: websocket\r\n" in seen[0]
        assert b"\r\nsec-websocket-key: " in seen[0]

    run(main())


def test_another_protocol_is_501_and_a_plain_connect_405() -> None:
    async def main() -> None:
        async with stage() as here, await here.connect(here.port_h2) as client:
            peer = Peer(client)
            await peer.settings()
            other = [(n, "webtransport" if n == ":protocol" else v) for n, v in ASK]
            for stream, fields, status in (
                (1, other, 501),
                (3, [(":method", "CONNECT"), (":authority", "web:80")], 405),
            ):
                peer.status = 0
                peer.link.send_headers(stream, fields)
                peer.send()
                await peer.answered()
                assert peer.status == status

    run(main())
