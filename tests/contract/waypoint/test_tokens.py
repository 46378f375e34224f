"""Tokens through the proxy, with keys from an issuer's server."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from mesh.model.authentication import ClaimToHeader, JwtRule
from mesh.model.policy import PolicyAction, RequestMatch
from tests.contract.http1.stage import run
from tests.contract.waypoint.authorizers import app, exact
from tests.contract.waypoint.scene import TARGET, Scene, Script, authentication, scene
from tests.unit.mesh.jwt import issuer
from tests.unit.mesh.policy.l7 import build
from waypoint.security.issuers import issuer_states

ONE, TWO = issuer.signer("ES256", "one"), issuer.signer("RS256", "two")


@dataclass(slots=True)
class Issuer:
    """An identity provider: what it publishes, and how often it was asked."""

    url: str = ""
    keys: bytes = b""
    status: int = 200
    asked: list[str] = field(default_factory=list)

    def token(self, by: issuer.Signer, **claims: object) -> str:
        now = int(time.time())
        return issuer.token(by, issuer.payload(iss=self.url, exp=now + 600, **claims))


@asynccontextmanager
async def serving_issuer(keys: bytes) -> AsyncIterator[Issuer]:
    made = Issuer(keys=keys)

    async def certs(request: web.Request) -> web.Response:
        made.asked.append(request.path)
        return web.Response(status=made.status, body=made.keys)

    async def discovery(request: web.Request) -> web.Response:
        made.asked.append(request.path)
        return web.json_response({"issuer": made.url, "jwks_uri": f"{made.url}/certs"})

    server = web.Application()
    server.router.add_get("/certs", certs)
    server.router.add_get("/.well-known/openid-configuration", discovery)
    runner = web.AppRunner(server, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()


def bearer(text: str) -> str:
    return f"authorization: Bearer {text}"


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await holds():  # noqa: ASYNC110 - what holds is asked over HTTP
            await asyncio.sleep(0.05)


def test_keys_come_by_uri_and_claims_become_headers() -> None:
    async def main() -> None:
        async with serving_issuer(issuer.jwks(ONE)) as idp:
            rule = JwtRule(
                issuer=idp.url,
                jwks_uri=f"{idp.url}/certs",
                allow_http=True,
                output_claims=(ClaimToHeader(header="x-who", claim=("sub",)),),
                output_payload_to_header="x-payload",
            )
            principal = build.to(RequestMatch(request_principals=exact(f"{idp.url}/ann")))
            allow = build.policy("only-ann", PolicyAction.ALLOW, principal, targets=(TARGET,))
            script = Script(policies=(allow,), authentications=(authentication(rule),))
            async with scene(app, script=script) as here:
                # The very first request waits for the first fetch.
                status, _, body = await here.get("/", bearer(idp.token(ONE)), "x-who: root")
                assert status == 200
                assert b"x-who: ann" in body
                assert b"root" not in body
                assert b"x-payload: " in body
                assert b"authorization" not in body
                assert (await here.get("/", bearer(idp.token(ONE, sub="bob"))))[0] == 403
                assert (await here.get("/"))[0] == 403
                assert (await here.get("/", bearer(idp.token(TWO))))[0] == 401
                assert idp.asked == ["/certs"]
                known = len(here.state._outside.verified)
                assert known == 2

    run(main())


def test_keys_come_by_discovery() -> None:
    async def main() -> None:
        async with serving_issuer(issuer.jwks(TWO)) as idp:
            rule = JwtRule(issuer=idp.url, allow_http=True)
            script = Script(authentications=(authentication(rule),))
            async with scene(app, script=script) as here:
                assert (await here.get("/", bearer(idp.token(TWO))))[0] == 200
                assert idp.asked == ["/.well-known/openid-configuration", "/certs"]

    run(main())


def test_two_tokens_are_refused() -> None:
    async def main() -> None:
        async with serving_issuer(issuer.jwks(ONE)) as idp:
            rule = JwtRule(issuer=idp.url, jwks_uri=f"{idp.url}/certs", allow_http=True)
            script = Script(authentications=(authentication(rule),))
            async with scene(app, script=script) as here:
                first, second = idp.token(ONE), idp.token(ONE, sub="bob")
                status, head, _ = await here.get(f"/?access_token={second}", bearer(first))
                assert status == 401
                assert b"several tokens" in head
                assert "jwt_several_tokens" in here.records[0].details

    run(main())


def _bad(idp: Issuer, how: str) -> None:
    match how:
        case "unreachable":
            idp.url = "http://127.0.0.1:1"
        case "failing":
            idp.status = 500
        case "malformed":
            idp.keys = b"<html>"
        case "oversized":
            idp.keys = b" " * (300 * 1024) + issuer.jwks(ONE)


async def _one_issuer_is_bad(how: str) -> None:
    async with serving_issuer(issuer.jwks(TWO)) as good, serving_issuer(issuer.jwks(ONE)) as bad:
        _bad(bad, how)
        rules = [
            JwtRule(issuer=each.url, jwks_uri=f"{each.url}/certs", allow_http=True)
            for each in (good, bad)
        ]
        script = Script(authentications=(authentication(*rules),))
        async with scene(app, script=script) as here:
            status, head, _ = await here.get("/", bearer(bad.token(ONE)))
            assert status == 401
            assert b"www-authenticate: bearer" in head
            assert "jwks_unavailable" in here.records[0].details
            assert (await here.get("/", bearer(good.token(TWO))))[0] == 200
            errors = {where.text: found for where, found in here.keys.status().items()}
            assert errors[f"{bad.url}/certs"].error
            assert errors[f"{bad.url}/certs"].keys == 0
            assert not errors[f"{good.url}/certs"].error
            states = {item.source: item for item in issuer_states(here.keys.status().values())}
            assert states[f"{bad.url}/certs"].keys == 0
            assert states[f"{bad.url}/certs"].failures > 0
            assert states[f"{good.url}/certs"].keys == 1


def test_an_issuer_without_keys_harms_no_other() -> None:
    async def main() -> None:
        for how in ("unreachable", "failing", "malformed", "oversized"):
            await _one_issuer_is_bad(how)

    run(main())


def test_the_last_good_keys_stay_and_an_issuer_recovers() -> None:
    async def main() -> None:
        async with serving_issuer(issuer.jwks(ONE)) as idp:
            rule = JwtRule(issuer=idp.url, jwks_uri=f"{idp.url}/certs", allow_http=True)
            script = Script(authentications=(authentication(rule),))
            async with scene(app, script=script) as here:
                assert (await here.get("/", bearer(idp.token(ONE))))[0] == 200
                idp.status = 503
                # An unknown key makes us ask, which fails; what was there goes on.
                assert (await here.get("/", bearer(idp.token(TWO))))[0] == 401
                assert (await here.get("/", bearer(idp.token(ONE))))[0] == 200
                # Another snapshot changes nothing in that.
                here.state.replace_snapshot(here.state.snapshot)
                assert (await here.get("/", bearer(idp.token(ONE))))[0] == 200

        async with serving_issuer(b"{}") as late:
            rule = JwtRule(issuer=late.url, jwks_uri=f"{late.url}/certs", allow_http=True)
            script = Script(authentications=(authentication(rule),))
            async with scene(app, script=script) as here:
                assert (await here.get("/", bearer(late.token(ONE))))[0] == 401
                late.keys = issuer.jwks(ONE)
                await eventually(lambda: _passes(here, late))

    run(main())


async def _passes(here: Scene, idp: Issuer) -> bool:
    return (await here.get("/", bearer(idp.token(ONE))))[0] == 200


def test_the_payload_header_is_what_was_signed() -> None:
    async def main() -> None:
        async with serving_issuer(issuer.jwks(ONE)) as idp:
            rule = JwtRule(
                issuer=idp.url,
                jwks=issuer.jwks(ONE).decode(),
                output_payload_to_header="x-payload",
                forward_original_token=True,
            )
            async with scene(app, script=Script(authentications=(authentication(rule),))) as here:
                text = idp.token(ONE)
                _, _, body = await here.get("/", bearer(text))
                payload = body.partition(b"x-payload: ")[2].split(b"\r\n")[0].decode()
                assert payload == text.split(".")[1]
                assert b"authorization: Bearer" in body
                assert json.loads(base64.urlsafe_b64decode(payload + "=="))["sub"] == "ann"

    run(main())
