"""CONNECT: refused unless a TrafficPolicy allows it; then a tunnel to the service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import h2.config
import h2.connection
import h2.events
import pytest

from mesh.model.policy import AuthorizationPolicy, PolicyAction, PolicyKey, RequestMatch
from mesh.model.snapshot import MeshSnapshot
from mesh.model.traffic import Bandwidth, PolicyTarget, TrafficPolicy, Upgrades
from tests.contract.http1.stage import Client, Handler, run, serving
from tests.contract.waypoint.authorizers import exact, policy
from tests.contract.waypoint.scene import Scene, Script, loopback, scene, service
from tests.contract.waypoint.test_websocket_h2 import Peer
from tests.unit.mesh.policy.l7 import build

ASK = b"CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example:5432\r\n\r\n"
ALLOWED = TrafficPolicy(
    key=PolicyKey("shop/tunnels"),
    namespace="shop",
    name="tunnels",
    targets=(PolicyTarget(group="", kind="Service", name="web"),),
    upgrades=Upgrades(connect=True),
)


def base(traffic: TrafficPolicy | None) -> MeshSnapshot:
    policies = {traffic.key: traffic} if traffic is not None else {}
    return MeshSnapshot(revision=1, traffic_policies=policies)


def proxy_server(
    seen: list[bytes], answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
) -> Handler:
    """A forward proxy: answers the head, then gives back what it gets in capitals."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        while data := await reader.read(65536):
            writer.write(data.upper())
            await writer.drain()
        writer.write(b"bye")

    return handle


@contextlib.asynccontextmanager
async def tunnels(
    seen: list[bytes],
    traffic: TrafficPolicy | None = ALLOWED,
    policies: tuple[AuthorizationPolicy, ...] = (),
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n",
) -> AsyncIterator[Scene]:
    script = Script(policies=policies, snapshot=base(traffic))
    async with scene(proxy_server(seen, answer), script=script) as here:
        yield here


async def settled(here: Scene) -> None:
    """Until every exchange is over."""
    async with asyncio.timeout(30):
        while here.proxy.active:  # noqa: ASYNC110 - nothing tells a test of the end
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("traffic", [None, replace(ALLOWED, upgrades=Upgrades())])
def test_it_is_refused_unless_allowed(traffic: TrafficPolicy | None) -> None:
    async def main() -> None:
        seen: list[bytes] = []
        async with tunnels(seen, traffic) as here:
            # What follows may be meant for a tunnel: it must not be read as a request.
            answer = await here.ask(ASK + b"GET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 405 ")
            assert answer.count(b"HTTP/1.1") == 1
            assert b"\r\nconnection: close\r\n" in answer
            (record,) = here.records
            assert (record.details, record.flag) == ("connect_not_allowed", "DPE")
            assert (record.method, record.authority) == ("CONNECT", "db.example:5432")
        assert seen == []

    run(main())


def test_a_tunnel_carries_both_ways_and_each_direction_ends() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        async with tunnels(seen) as here, await here.connect() as client:
            client.send(ASK + b"early ")
            head = await client.until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"content-length" not in head.lower()
            assert b"transfer-encoding" not in head.lower()
            assert await client.exactly(6) == b"EARLY "
            big = b"x" * 300_000
            client.send(big)
            assert await client.exactly(len(big)) == big.upper()
            client.writer.write_eof()
            assert await client.read_all() == b"bye"
            await settled(here)
            (record,) = here.records
            assert (record.status, record.flag) == (200, "-")
            assert (record.bytes_received, record.bytes_sent) == (300_006, 300_009)
        assert seen[0].startswith(b"CONNECT db.example:5432 HTTP/1.1\r\nhost: db.example:5432\r\n")
        assert b"x-forwarded-client-cert: " in seen[0]
        assert b"connection:" not in seen[0].lower()

    run(main())


def test_a_refusal_of_the_server_is_an_ordinary_answer() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        no = b"HTTP/1.1 407 Ask\r\nproxy-authenticate: Basic\r\ncontent-length: 2\r\n\r\nno"
        async with tunnels(seen, answer=no) as here:
            answer = await here.ask(ASK)
            assert answer.startswith(b"HTTP/1.1 407 ")
            assert answer.endswith(b"\r\n\r\nno")
            assert here.records[0].status == 407

    run(main())


@pytest.mark.parametrize(
    "match",
    [
        RequestMatch(methods=exact("CONNECT")),
        RequestMatch(hosts=exact("db.example:5432")),
    ],
    ids=["method", "host"],
)
def test_policy_comes_first_and_names_its_rule(match: RequestMatch) -> None:
    async def main() -> None:
        deny = policy("no-tunnels", PolicyAction.DENY, build.to(match))
        seen: list[bytes] = []
        async with tunnels(seen, policies=(deny,)) as here:
            assert (await here.ask(ASK)).startswith(b"HTTP/1.1 403 ")
            wanted = (
                "rbac_access_denied_matched_policy[AuthorizationPolicy shop/no-tunnels rule[0]]"
            )
            assert here.records[0].details == wanted
        assert seen == []

    run(main())


def test_paths_do_not_speak_of_it() -> None:
    """It has none: an ALLOW rule by path lets no tunnel through."""

    async def main() -> None:
        allow = policy("pages", PolicyAction.ALLOW, build.to(RequestMatch(paths=exact("/"))))
        async with tunnels([], policies=(allow,)) as here:
            assert (await here.ask(ASK)).startswith(b"HTTP/1.1 403 ")

    run(main())


BAD = {
    "no port": b"CONNECT db.example HTTP/1.1\r\nHost: db.example\r\n\r\n",
    "port 0": b"CONNECT db.example:0 HTTP/1.1\r\nHost: db.example:0\r\n\r\n",
    "a path": b"CONNECT /x HTTP/1.1\r\nHost: web\r\n\r\n",
    "absolute": b"CONNECT http://web:80/ HTTP/1.1\r\nHost: web:80\r\n\r\n",
    "another host": b"CONNECT db.example:1 HTTP/1.1\r\nHost: evil:1\r\n\r\n",
    "a body": ASK[:-2] + b"Content-Length: 3\r\n\r\nabc",
    "chunks": ASK[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "user info": b"CONNECT a@db.example:1 HTTP/1.1\r\nHost: db.example:1\r\n\r\n",
}


@pytest.mark.parametrize("request_", BAD.values(), ids=BAD.keys())
def test_a_doubtful_one_is_refused(request_: bytes) -> None:
    async def main() -> None:
        seen: list[bytes] = []
        async with tunnels(seen) as here:
            assert (await here.ask(request_)).startswith(b"HTTP/1.1 400 ")
        assert seen == []

    run(main())


# --- HTTP/2 -------------------------------------------------------------------------------------

HEAD = [(":method", "CONNECT"), (":authority", "db.example:5432")]


async def through(client: Client, end: bool = True) -> Peer:
    """Open a tunnel, send through it, and read what comes back."""
    peer = Peer(client)
    await peer.settings()
    peer.link.send_headers(1, HEAD)
    peer.link.send_data(1, b"early ")
    peer.send()
    await peer.answered()
    assert (peer.status, peer.headers.get("content-length")) == (200, None)
    peer.link.send_data(1, b"late", end_stream=end)
    peer.send()
    while end and not peer.ended:
        await peer.read()
    return peer


def test_from_http2_to_http1() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        async with tunnels(seen) as here, await here.connect_h2() as client:
            assert (await through(client)).data == b"EARLY LATEbye"
            await settled(here)
            assert here.records[-1].status == 200
        assert seen[0].startswith(b"CONNECT db.example:5432 HTTP/1.1\r\n")

    run(main())


def test_http2_is_refused_unless_allowed() -> None:
    async def main() -> None:
        async with tunnels([], None) as here, await here.connect_h2() as client:
            peer = Peer(client)
            await peer.settings()
            peer.link.send_headers(1, HEAD)
            peer.send()
            await peer.answered()
            assert peer.status == 405

    run(main())


@dataclass(slots=True)
class H2Tunnel:
    """A forward proxy that speaks HTTP/2."""

    heads: list[dict[str, str]] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        link.initiate_connection()
        writer.write(link.data_to_send())
        while data := await reader.read(65536):
            for event in link.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    self.heads.append({n.decode(): v.decode() for n, v in event.headers})
                    link.send_headers(event.stream_id, [(":status", "200")])
                elif isinstance(event, h2.events.DataReceived):
                    link.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    link.send_data(event.stream_id, event.data.upper())
                elif isinstance(event, h2.events.StreamEnded):
                    link.send_data(event.stream_id, b"bye", end_stream=True)
            writer.write(link.data_to_send())
            await writer.drain()


def test_to_an_http2_server() -> None:
    async def main() -> None:
        server = H2Tunnel()
        async with serving(server.handle) as port:
            web = service("web", loopback(port), app_protocol="kubernetes.io/h2c")
            script = Script(services=(web,), snapshot=base(ALLOWED))
            async with scene(script=script) as here:
                async with await here.connect() as client:
                    client.send(ASK)
                    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                    client.send(b"abc")
                    assert await client.exactly(3) == b"ABC"
                    client.writer.write_eof()
                    assert await client.read_all() == b"bye"
                async with await here.connect_h2() as client:
                    assert (await through(client)).data == b"EARLY LATEbye"
                await settled(here)
                assert [record.status for record in here.records] == [200, 200]
        wanted = {":method": "CONNECT", ":authority": "db.example:5432"}
        for head in server.heads:
            assert {n: v for n, v in head.items() if n.startswith(":")} == wanted

    run(main())


# --- limits -------------------------------------------------------------------------------------


def test_bandwidth_holds_for_a_tunnel_too() -> None:
    async def main() -> None:
        paced = replace(ALLOWED, bandwidth=Bandwidth(response_bytes_per_s=100_000))
        async with tunnels([], paced) as here, await here.connect() as client:
            client.send(ASK)
            await client.until(b"\r\n\r\n")
            began = asyncio.get_running_loop().time()
            client.send(b"x" * 130_000)
            async with asyncio.timeout(30):
                await client.reader.readexactly(130_000)
            client.writer.write_eof()
            assert await client.read_all() == b"bye"
            await settled(here)
            assert asyncio.get_running_loop().time() - began > 0.2

    run(main())


@pytest.mark.parametrize(
    ("upgrades", "flag", "details"),
    [
        (Upgrades(connect=True, idle_timeout_s=0.01), "SI", "stream_idle_timeout"),
        (Upgrades(connect=True, max_duration_s=0.01), "DT", "max_duration_timeout"),
    ],
    ids=["idle", "longest"],
)
def test_a_tunnel_ends_in_time(upgrades: Upgrades, flag: str, details: str) -> None:
    async def main() -> None:
        async with tunnels([], replace(ALLOWED, upgrades=upgrades)) as here:
            async with await here.connect() as client:
                client.send(ASK)
                await client.until(b"\r\n\r\n")
                async with asyncio.timeout(30):
                    while not client.reader.at_eof():
                        here.proxy.under_way.tick()
                        await asyncio.sleep(0.01)
                        with contextlib.suppress(ConnectionError, TimeoutError):
                            await asyncio.wait_for(client.reader.read(1), 0.01)
            await settled(here)
            (record,) = here.records
            assert (record.flag, record.details, record.status) == (flag, details, 200)

    run(main())
