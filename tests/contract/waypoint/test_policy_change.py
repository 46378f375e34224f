"""Requests under way when policy changes: cut, answered, or left alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mesh.http1.message import Framing, RequestHead
from mesh.model.authentication import JwtRule
from mesh.model.policy import AuthorizationPolicy, PolicyAction, RequestMatch
from mesh.model.provider import ExternalAuthorizer
from tests.contract.http1.stage import Client, run
from tests.contract.waypoint.authorizers import ASK as CUSTOM
from tests.contract.waypoint.authorizers import GUARD, exact, policy
from tests.contract.waypoint.scene import Scene, Script, authentication, scene
from tests.contract.waypoint.test_tokens import ONE, TWO, eventually, serving_issuer
from tests.contract.waypoint.test_websocket import UPGRADE
from tests.contract.waypoint.test_websocket_h2 import ASK as UPGRADE_H2
from tests.contract.waypoint.test_websocket_h2 import Peer
from tests.unit.mesh.jwt import issuer
from tests.unit.mesh.policy.l7 import build
from waypoint.exchange.open_exchanges import OpenExchanges

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n"
RULE = "AuthorizationPolicy shop/no-streams rule[0]"
DENIED = f"policy_change: rbac_access_denied_matched_policy[{RULE}]"
ISSUER = "https://issuer.example"


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """`/slow` never answers, `/events` never ends, and everything else is a tunnel with echo."""
    head = await reader.readuntil(b"\r\n\r\n")
    path = head.split()[1]
    if path == b"/slow":
        await reader.read()
        return
    writer.write(STREAM if path == b"/events" else SWITCHED)
    while data := await reader.read(65536):
        writer.write(data)


def no(*paths: str) -> AuthorizationPolicy:
    """A policy that denies paths."""
    return policy("no-streams", PolicyAction.DENY, build.to(RequestMatch(paths=exact(*paths))))


def change(here: Scene, *policies: AuthorizationPolicy) -> int:
    """New policies, as the worker applies them."""
    old = here.state.snapshot
    here.proxy.under_way.judge = here.state
    found = {item.key: item for item in policies}
    here.state.replace_snapshot(replace(old, revision=old.revision + 1, policies=found))
    assert here.state.policy_changed == (found != old.policies)
    return here.proxy.under_way.judge_again()


@contextlib.asynccontextmanager
async def asking(here: Scene, request: bytes, answer: bytes = b"\r\n\r\n") -> AsyncIterator[Client]:
    """A client whose request was answered as far as `answer`."""
    async with await here.connect() as client:
        client.send(request)
        if answer:
            await client.until(answer)
        yield client


def get(path: str, *fields: str) -> bytes:
    lines = "".join(f"{field}\r\n" for field in fields)
    return f"GET {path} HTTP/1.1\r\nHost: web\r\n{lines}\r\n".encode()


async def settled(here: Scene, left: int = 0) -> None:
    async with asyncio.timeout(30):
        while here.proxy.active != left:  # noqa: ASYNC110 - nothing tells a test of the end
            await asyncio.sleep(0.01)


async def cut(client: Client) -> bytes:
    """What comes before the connection breaks."""
    with contextlib.suppress(ConnectionError):
        return await client.read_all()
    return b""


def test_what_is_denied_now_is_cut_and_the_rest_goes_on() -> None:
    async def main() -> None:
        async with (
            scene(streams, script=Script()) as here,
            asking(here, UPGRADE) as socket,
            asking(here, get("/events"), b"data: 1\n\n") as events,
            asking(here, UPGRADE.replace(b"/echo", b"/other")) as other,
        ):
            assert change(here, no("/echo", "/events")) == 2
            assert await cut(socket) == b""
            await cut(events)
            other.send(b"still here")
            assert await other.exactly(10) == b"still here"
            await settled(here, 1)
            assert sorted(record.status for record in here.records) == [101, 200]
            for record in here.records:
                assert (record.flag, record.details) == ("POLICY_CHANGE", DENIED)
                assert record.policy == RULE
            assert change(here, no("/echo", "/events")) == 0  # nothing new
            assert change(here, no("/other")) == 1
            await cut(other)
            await settled(here)

    run(main())


def test_one_without_a_response_is_answered() -> None:
    async def main() -> None:
        async with (
            scene(streams, script=Script()) as here,
            asking(here, get("/slow"), b"") as client,
        ):
            async with asyncio.timeout(30):
                while not here.proxy.active:  # noqa: ASYNC110 - nothing tells a test of it
                    await asyncio.sleep(0.01)
            assert change(here, no("/slow")) == 1
            assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 403 ")
            (record,) = here.records
            assert (record.status, record.flag, record.details) == (403, "POLICY_CHANGE", DENIED)

    run(main())


def test_a_stream_of_http2_is_reset_and_its_neighbours_are_not() -> None:
    async def main() -> None:
        async with (
            scene(streams, script=Script()) as here,
            await here.connect_h2() as client,
        ):
            peer = Peer(client)
            await peer.settings()
            peer.link.send_headers(1, UPGRADE_H2)
            peer.link.send_headers(3, [*UPGRADE_H2[:3], (":path", "/other"), *UPGRADE_H2[4:]])
            peer.send()
            async with asyncio.timeout(30):
                while here.proxy.under_way.tunnels < 2:
                    await peer.read()
            assert change(here, no("/echo")) == 1
            while not peer.reset:
                await peer.read()
            peer.link.send_data(3, b"still here")
            peer.send()
            while peer.data != b"still here":
                await peer.read()

    run(main())


def test_a_request_is_judged_as_it_came_not_as_it_went_on() -> None:
    """Header names of the client count, and the same request is not denied for what we added."""

    async def main() -> None:
        deny = policy(
            "no-streams", PolicyAction.DENY, build.to(RequestMatch(hosts=exact("elsewhere")))
        )
        async with (
            scene(streams, script=Script()) as here,
            asking(here, UPGRADE),
            asking(here, UPGRADE.replace(b"Host: web", b"Host: elsewhere")) as denied,
        ):
            assert change(here, deny) == 1
            await cut(denied)
            await settled(here, 1)

    run(main())


def test_a_policy_that_wants_an_authorizer_which_was_not_asked_cuts() -> None:
    async def main() -> None:
        provider: ExternalAuthorizer = GUARD
        script = Script(providers=(provider,))
        asked = UPGRADE.replace(b"/echo", b"/asked/x")
        async with (
            scene(streams, script=script) as here,
            asking(here, UPGRADE),
            asking(here, asked) as one,
        ):
            assert change(here, CUSTOM) == 1
            await cut(one)
            await settled(here, 1)
            (record,) = here.records
            assert record.policy == "AuthorizationPolicy shop/ask rule[0]"

    run(main())


def test_a_tunnel_ends_with_its_token() -> None:
    async def main() -> None:
        signer = issuer.signer("ES256", "one")
        rule = JwtRule(issuer=ISSUER, jwks=issuer.jwks(signer).decode())
        script = Script(authentications=(authentication(rule),))
        now = time.time()
        token = issuer.token(signer, issuer.payload(iss=ISSUER, exp=int(now) + 600))
        fields = f"Authorization: Bearer {token}\r\n\r\n".encode()
        async with scene(streams, script=script) as here:
            clock = [now]
            here.proxy.under_way = under_way = OpenExchanges(time.monotonic, lambda: clock[0])
            under_way.judge = here.state
            async with (
                asking(here, UPGRADE[:-2] + fields) as bearer,
                asking(here, UPGRADE) as nobody,
            ):
                clock[0] = now + 600 + 50  # within the grace of every token
                under_way.tick()
                bearer.send(b"still here")
                assert await bearer.exactly(10) == b"still here"
                clock[0] = now + 600 + 61
                under_way.tick()
                await cut(bearer)
                await settled(here, 1)
                nobody.send(b"still here")
                assert await nobody.exactly(10) == b"still here"
                (record,) = here.records
                assert (record.flag, record.details) == ("TOKEN_EXPIRED", "jwt_expired")

    run(main())


@pytest.mark.slow
def test_requests_end_when_the_key_of_their_token_is_taken_back() -> None:
    """Slow: an issuer is asked again after ten seconds at the earliest."""

    async def main() -> None:
        async with serving_issuer(issuer.jwks(ONE, TWO)) as idp:
            rule = JwtRule(issuer=idp.url, jwks_uri=f"{idp.url}/certs", allow_http=True)
            script = Script(authentications=(authentication(rule),))
            one, two = (f"Authorization: Bearer {idp.token(by)}" for by in (ONE, TWO))
            async with scene(streams, script=script) as here:
                await eventually(lambda: has_keys(here, rule))
                judged = judged_when_keys_go(here)
                async with (
                    asking(here, upgrade(one)) as socket,
                    asking(here, get("/events", one), b"data: 1\n\n") as events,
                    asking(here, UPGRADE) as nobody,
                    asking(here, upgrade(two)) as other,
                ):
                    idp.keys = issuer.jwks(TWO)
                    await eventually(lambda: here.keys.refresh([rule]))
                    assert judged == [2]
                    await cut(socket)
                    await cut(events)
                    for client in (nobody, other):
                        client.send(b"still here")
                        assert await client.exactly(10) == b"still here"
                    await settled(here, 2)
                    assert {str(record.flag) for record in here.records} == {"POLICY_CHANGE"}
                    assert all("jwt_authn_access_denied" in r.details for r in here.records)
                    idp.keys = issuer.jwks(TWO, ONE)  # one more takes nothing away
                    await eventually(lambda: here.keys.refresh([rule]))
                    assert judged == [2]

    run(main())


def judged_when_keys_go(here: Scene) -> list[int]:
    """How many requests end, each time that a key is taken back; as the worker does it."""
    here.proxy.under_way.judge = here.state
    ended: list[int] = []

    def removed() -> None:
        here.state.settle()
        ended.append(here.proxy.under_way.judge_again())

    here.keys.on_removed = removed
    return ended


async def has_keys(here: Scene, rule: JwtRule) -> bool:
    return here.keys.keys(rule) is not None


def upgrade(*fields: str) -> bytes:
    return UPGRADE[:-2] + "".join(f"{field}\r\n" for field in fields).encode() + b"\r\n"


def test_a_token_is_judged_as_of_when_its_request_began() -> None:
    """What has expired since then is no matter of policy."""

    async def main() -> None:
        signer = issuer.signer("ES256", "one")
        rule = JwtRule(issuer=ISSUER, jwks=issuer.jwks(signer).decode())
        script = Script(authentications=(authentication(rule),))
        now = time.time()
        # Within the grace of every token, and not for long.
        token = issuer.token(signer, issuer.payload(iss=ISSUER, exp=int(now) - 57))
        async with scene(streams, script=script) as here:
            bearer = f"Authorization: Bearer {token}"
            async with asking(here, get("/events", bearer), b"data: 1\n\n") as events:
                (exchange,) = here.proxy.under_way.under_way
                head = RequestHead(
                    method=b"GET",
                    target=b"/events",
                    host=b"web",
                    headers=[(b"authorization", bearer.encode().partition(b" ")[2])],
                    minor=1,
                    framing=Framing.NONE,
                    length=None,
                    keep_alive=True,
                )
                origin = exchange.origin
                assert here.state.judge_again(origin, replace(head), None, now) is None
                late = here.state.judge_again(origin, replace(head), None, now + 3600)
                assert late is not None
                assert "expired" in late.details
                assert change(here, no("/other")) == 0
                assert change(here, no("/events")) == 1
                await cut(events)
                await settled(here)

    run(main())
