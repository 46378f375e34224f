"""An external authorizer over HTTP, and policies that ask it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from mesh.model.policy import (
    AuthorizationPolicy,
    PolicyAction,
    RequestMatch,
    Rule,
    StringMatch,
)
from mesh.model.provider import ExternalAuthorizer
from tests.contract.http1.stage import Handler, run, serving
from tests.contract.waypoint.scene import PORT, TARGET, Scene, Script, loopback, scene, service
from tests.unit.mesh.policy.l7 import build
from waypoint.limits import ProxyLimits

AUTHORIZER = "meshnode_waypoint_authorizer_requests_total"


def exact(*values: str) -> tuple[StringMatch, ...]:
    return tuple(StringMatch(kind="exact", value=value) for value in values)


def paths(value: str) -> Rule:
    return build.to(RequestMatch(paths=(StringMatch(kind="prefix", value=value),)))


def policy(
    name: str, action: PolicyAction, *rules: Rule, provider: str = "", dry_run: bool = False
) -> AuthorizationPolicy:
    return build.policy(name, action, *rules, targets=(TARGET,), provider=provider, dry_run=dry_run)


ASK = policy("ask", PolicyAction.CUSTOM, paths("/asked"), provider="guard")
GUARD = ExternalAuthorizer(
    name="guard",
    service="shop/guard",
    port=PORT,
    timeout_s=5.0,
    path_prefix="/check",
    check_headers=exact("x-ticket"),
    extra_headers=(("x-from", "waypoint"),),
    upstream_headers=exact("x-user"),
    allowed_headers=exact("x-seen-by"),
    denied_headers=exact("x-why"),
)


async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with what it got."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        body = b""
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                body = await reader.readexactly(int(line.split(b":")[1]))
        text = head + body
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(text) + text)


def authorizer(answer: Callable[[bytes], bytes], seen: list[bytes], wait_s: float = 0.0) -> Handler:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    head += await reader.readexactly(int(line.split(b":")[1]))
            seen.append(head)
            await asyncio.sleep(wait_s)
            writer.write(answer(head))

    return serve


def by_ticket(head: bytes) -> bytes:
    if b"x-ticket: good" in head:
        return (
            b"HTTP/1.1 200 OK\r\nx-user: ann\r\nx-seen-by: guard\r\nx-other: 1\r\n"
            b"x-forwarded-client-cert: URI=spiffe://evil\r\ncontent-length: 0\r\n\r\n"
        )
    return (
        b"HTTP/1.1 401 No\r\nx-why: no ticket\r\nx-secret: 1\r\nwww-authenticate: Ticket\r\n"
        b'content-type: application/json\r\ncontent-length: 11\r\n\r\n{"no":"way"}'[:-1]
    )


def http_scene(
    act: Callable[[Scene, list[bytes]], object],
    *,
    provider: ExternalAuthorizer = GUARD,
    answer: Callable[[bytes], bytes] = by_ticket,
    policies: Sequence[AuthorizationPolicy] = (ASK,),
    wait_s: float = 0.0,
    limits: ProxyLimits | None = None,
) -> None:
    """Run a client against a proxy that asks one HTTP authorizer."""

    async def main() -> None:
        seen: list[bytes] = []
        async with serving(authorizer(answer, seen, wait_s)) as port:
            script = Script(
                policies=policies,
                providers=(provider,),
                services=(service("guard", loopback(port)),),
                limits=limits or ProxyLimits(),
            )
            async with scene(app, script=script) as here:
                await act(here, seen)  # type: ignore[misc]  # an async function

    run(main())
