"""CUSTOM policies: external authorizers over HTTP and gRPC, real servers on both ends."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest

from mesh.model.policy import (
    NamedMatch,
    PolicyAction,
    RequestMatch,
)
from mesh.model.provider import BodyCheck
from tests.contract.http1.stage import run, serving
from tests.contract.waypoint.authorizers import (
    ASK,
    AUTHORIZER,
    GUARD,
    app,
    authorizer,
    by_ticket,
    exact,
    http_scene,
    paths,
    policy,
)
from tests.contract.waypoint.scene import Scene, Script, loopback, scene, service
from tests.unit.mesh.policy.l7 import build


def test_an_http_authorizer_allows_and_its_headers_travel() -> None:
    async def act(here: Scene, seen: list[bytes]) -> None:
        status, head, body = await here.get(
            "/asked/x?q=1",
            "x-ticket: good",
            "x-private: 1",
            "authorization: Basic abc",
            "x-user: me",
        )
        assert status == 200
        assert b"x-user: ann" in body
        assert b"x-user: me" not in body
        assert b"x-other" not in body
        assert b"evil" not in body
        assert b"x-seen-by: guard" in head
        (asked,) = seen
        assert asked.startswith(b"GET /check/asked/x?q=1 HTTP/1.1\r\n")
        for part in (b"host: web", b"x-ticket: good", b"authorization: Basic a"):
            assert part in asked
        assert b"x-from: waypoint" in asked
        assert b"x-private" not in asked
        assert here.counts == {(AUTHORIZER, ("guard", "allowed")): 1}

    http_scene(act)


def test_its_denial_is_the_clients_answer() -> None:
    async def act(here: Scene, seen: list[bytes]) -> None:
        status, head, body = await here.get("/asked/x")
        assert (status, body) == (401, b'{"no":"way"')
        assert b"x-why: no ticket" in head
        assert b"www-authenticate: ticket" in head
        assert b"content-type: application/json" in head
        assert b"text/plain" not in head
        assert b"x-secret" not in head
        assert (await here.get("/free"))[0] == 200
        assert len(seen) == 1
        denied, _ = here.records
        assert denied.flag == "UAEX"
        assert denied.details == "ext_authz_denied[AuthorizationPolicy shop/ask rule[0]]"
        assert denied.policy == "AuthorizationPolicy shop/ask rule[0]"

    http_scene(act)


def test_deny_comes_after_custom_and_sees_its_headers() -> None:
    """CUSTOM, DENY, ALLOW: a header that the authorizer set is what the others judge."""
    user = NamedMatch(name=("x-user",), values=exact("ann"))
    deny = policy("no-ann", PolicyAction.DENY, build.to(RequestMatch(header=user)))

    async def act(here: Scene, seen: list[bytes]) -> None:
        status, _, body = await here.get("/asked/x", "x-ticket: good")
        assert (status, body) == (403, b"RBAC: access denied")
        wanted = "rbac_access_denied_matched_policy[AuthorizationPolicy shop/no-ann rule[0]]"
        assert here.records[0].details == wanted
        assert (await here.get("/asked/x"))[0] == 401
        assert len(seen) == 2

    http_scene(act, policies=(ASK, deny))


def test_audit_and_dry_run_only_leave_marks() -> None:
    audit = policy("watch", PolicyAction.AUDIT, paths("/asked"))
    dry = policy("later", PolicyAction.DENY, paths("/asked"), dry_run=True)

    async def act(here: Scene, seen: list[bytes]) -> None:
        assert (await here.get("/asked/x", "x-ticket: good"))[0] == 200
        (record,) = here.records
        assert record.audited == ("AuthorizationPolicy shop/watch rule[0]",)
        assert record.dry_run == ("AuthorizationPolicy shop/later rule[0]",)

    http_scene(act, policies=(ASK, audit, dry))


@pytest.mark.parametrize(("fail_open", "status"), [(False, 403), (True, 200)])
def test_an_authorizer_that_fails_is_closed_unless_told_otherwise(
    fail_open: bool, status: int
) -> None:
    async def act(here: Scene, seen: list[bytes]) -> None:
        assert (await here.get("/asked/x"))[0] == status
        outcome = "failed_open" if fail_open else "failed_closed"
        assert here.counts == {(AUTHORIZER, ("guard", outcome)): 1}
        if not fail_open:
            (record,) = here.records
            assert record.flag == "UAEX"
            assert "answered 503" in record.details

    http_scene(
        act,
        provider=replace(GUARD, fail_open=fail_open),
        answer=lambda _: b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
    )


def test_one_that_is_slow_or_gone_answers_the_configured_status() -> None:
    async def slow(here: Scene, seen: list[bytes]) -> None:
        assert (await here.get("/asked/x"))[0] == 418
        assert "no answer in 0.05 s" in here.records[0].details

    http_scene(slow, provider=replace(GUARD, timeout_s=0.05, error_status=418), wait_s=2.0)

    async def gone(here: Scene, seen: list[bytes]) -> None:
        assert (await here.get("/asked/x"))[0] == 403
        assert "no ready endpoint" in here.records[0].details

    http_scene(gone, provider=replace(GUARD, service="shop/nobody", port=9))


def test_a_connection_that_the_authorizer_closed_is_no_failure() -> None:
    """It closes after each answer without saying so; a connection in the pool may be dead."""

    async def main() -> None:
        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        async with serving(once) as port:
            services = (service("guard", loopback(port)),)
            script = Script(policies=(ASK,), providers=(GUARD,), services=services)
            async with scene(app, script=script) as here:
                async with await here.connect() as client:
                    for _ in range(30):
                        client.send(b"GET /asked HTTP/1.1\r\nhost: w\r\n\r\n")
                        assert b" 200 OK" in await client.until(b"\r\n\r\n")
                        await client.until(b"\r\n\r\n")
                assert here.counts == {(AUTHORIZER, ("guard", "allowed")): 30}

    run(main())


def test_a_path_prefix_is_written_as_a_uri() -> None:
    async def act(here: Scene, seen: list[bytes]) -> None:
        assert (await here.get("/asked?q=1", "x-ticket: good"))[0] == 200
        assert seen[0].startswith(b"GET /pr%C3%BCf%20en/asked?q=1 HTTP/1.1\r\n")

    http_scene(act, provider=replace(GUARD, path_prefix="/prüf en"))


def test_a_host_name_outside_the_mesh_is_resolved() -> None:
    async def main() -> None:
        seen: list[bytes] = []
        async with serving(authorizer(by_ticket, seen)) as port:
            provider = replace(GUARD, service="localhost", port=port)
            script = Script(policies=(ASK,), providers=(provider,))
            async with scene(app, script=script) as here:
                assert (await here.get("/asked", "x-ticket: good"))[0] == 200

    run(main())


def test_a_provider_that_is_not_configured_denies() -> None:
    async def main() -> None:
        async with scene(app, script=Script(policies=(ASK,))) as here:
            assert (await here.get("/asked"))[0] == 403
            wanted = "ext_authz_error{unknown provider}[AuthorizationPolicy shop/ask rule[0]]"
            assert here.records[0].details == wanted
            assert here.records[0].flag == "UAEX"

    run(main())


def test_the_body_waits_and_then_streams_on() -> None:
    """More than the replay window is sent: the client is held back, nothing is lost."""
    size = 3_000_000

    async def act(here: Scene, seen: list[bytes]) -> None:
        async with await here.connect() as client:
            head = (
                b"POST /asked HTTP/1.1\r\nhost: w\r\nx-ticket: good\r\ncontent-length: %d\r\n\r\n"
            )
            client.send(head % size + b"z" * size)
            answer = await client.until(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            echoed = await client.exactly(length)
            assert echoed.endswith(b"z" * size)
            assert b"z" not in seen[0]

    http_scene(act, wait_s=0.2)


@pytest.mark.parametrize(
    ("body", "partial", "status", "shown"),
    [
        (b"hello", False, 200, b"\r\n\r\nhello"),
        (b"x" * 100, False, 413, None),
        (b"x" * 100, True, 200, b"\r\n\r\n" + b"x" * 16),
        (b"x" * 16, False, 200, b"\r\n\r\n" + b"x" * 16),
    ],
)
def test_an_authorizer_sees_the_body_where_it_should(
    body: bytes, partial: bool, status: int, shown: bytes | None
) -> None:
    async def act(here: Scene, seen: list[bytes]) -> None:
        request = b"POST /asked HTTP/1.1\r\nhost: w\r\nx-ticket: good\r\n"
        request += b"content-length: %d\r\n\r\n" % len(body)
        answer = await here.ask(request + body)
        assert answer.startswith(b"HTTP/1.1 %d" % status), answer
        assert [item.endswith(shown or b"") for item in seen] == ([True] if shown else [])
        if shown:
            assert answer.endswith(body)

    check = BodyCheck(max_bytes=16, allow_partial=partial)
    http_scene(act, provider=replace(GUARD, body=check))


def test_a_client_that_leaves_ends_the_question() -> None:
    async def act(here: Scene, seen: list[bytes]) -> None:
        async with await here.connect() as client:
            client.send(b"GET /asked HTTP/1.1\r\nhost: w\r\n\r\n")
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            async with asyncio.timeout(5):
                while not seen:  # noqa: ASYNC110 - a list has no event
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            while here.proxy.active:  # noqa: ASYNC110 - nor has a number
                await asyncio.sleep(0.01)
        assert here.records[0].flag == "DC"
        assert not here.counts

    http_scene(act, wait_s=3.0)


def test_over_http2_the_body_waits_too() -> None:
    async def act(here: Scene, seen: list[bytes]) -> None:
        process = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--noproxy", "*", "--max-time", "20", "--http2-prior-knowledge"),
            *("-H", "x-ticket: good", "--data-binary", "@-", "-o", "-"),
            f"http://127.0.0.1:{here.port_h2}/asked",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate(b"z" * 2_000_000)
        assert output.endswith(b"z" * 2_000_000)
        assert here.counts == {(AUTHORIZER, ("guard", "allowed")): 1}

    http_scene(act, wait_s=0.3)
