"""CUSTOM policies: external authorizers over HTTP and gRPC, real servers on both ends."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import replace

import grpc
import pytest

from mesh.model.address import SocketAddress
from mesh.model.policy import (
    AuthorizationPolicy,
    NamedMatch,
    PolicyAction,
    RequestMatch,
    Rule,
    StringMatch,
)
from mesh.model.provider import BodyCheck, ExternalAuthorizer, ProviderProtocol
from tests.contract.http1.stage import Handler, run, serving
from tests.contract.waypoint.scene import PORT, TARGET, Scene, Script, loopback, scene, service
from tests.support.ext_authz import (
    CheckRequest,
    CheckResponse,
    DeniedHttpResponse,
    HttpStatus,
    OkHttpResponse,
    QueryParameter,
    Status,
    StatusCode,
    header,
    http_of,
)
from tests.unit.mesh.policy.l7 import build
from waypoint.limits import ProxyLimits

# `append` is deprecated, and in use everywhere.
pytestmark = pytest.mark.filterwarnings("ignore:HeaderValueOption.append:DeprecationWarning")
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


# --- gRPC -----------------------------------------------------------------------------------------


class Guard:
    """An authorizer whose messages are made by another implementation of Envoy's API."""

    def __init__(self, answer: Callable[[CheckRequest], CheckResponse | grpc.StatusCode]) -> None:
        self.asked: list[CheckRequest] = []
        self._answer = answer

    def check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        asked = CheckRequest.parse(request)
        self.asked.append(asked)
        found = self._answer(asked)
        if isinstance(found, grpc.StatusCode):
            context.abort(found, "not now")
        return bytes(found)


@contextmanager
def grpc_guard(guard: Guard) -> Iterator[SocketAddress]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(guard.check)
    name = "envoy.service.auth.v3.Authorization"
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(name, {"Check": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield loopback(port)
    finally:
        server.stop(None).wait()


def grpc_scene(guard: Guard, act: Callable[[Scene], object], body: BodyCheck | None = None) -> None:
    provider = ExternalAuthorizer(
        name="guard",
        service="guard.shop.svc.cluster.local",
        port=PORT,
        protocol=ProviderProtocol.GRPC,
        timeout_s=5.0,
        body=body,
    )

    async def main() -> None:
        with grpc_guard(guard) as address:
            script = Script(
                policies=(ASK,), providers=(provider,), services=(service("guard", address),)
            )
            async with scene(app, script=script) as here:
                await act(here)  # type: ignore[misc]  # an async function

    run(main())


def test_a_grpc_authorizer_is_shown_the_request_and_changes_it() -> None:

    def answer(_: CheckRequest) -> CheckResponse:
        return CheckResponse(
            status=Status(code=0),
            ok_response=OkHttpResponse(
                headers=[
                    header("X-User", "ann"),
                    header("x-more", "two", append=True),
                    header("bad name", "1"),
                    header("x-split", "a\r\nx-evil: 1"),
                    header("host", "elsewhere"),
                ],
                headers_to_remove=["x-ticket"],
                response_headers_to_add=[header("x-seen-by", "guard")],
                query_parameters_to_set=[QueryParameter(key="u", value="ann")],
                query_parameters_to_remove=["q"],
            ),
        )

    guard = Guard(answer)

    async def act(here: Scene) -> None:
        status, head, body = await here.get(
            "/asked/x?q=1&r=2", "x-ticket: good", "x-more: one", "x-user: me"
        )
        assert status == 200
        text = body.decode()
        assert text.startswith("GET /asked/x?r=2&u=ann HTTP/1.1")
        for part in ("x-user: ann", "x-more: one", "x-more: two", "host: web"):
            assert part in text
        for part in ("x-ticket", "x-user: me", "bad name", "x-evil", "elsewhere"):
            assert part not in text
        assert b"x-seen-by: guard" in head
        asked = json.loads(guard.asked[0].to_json())
        attributes = asked["attributes"]
        http = attributes["request"]["http"]
        assert (http["method"], http["path"], http["host"]) == ("GET", "/asked/x?q=1&r=2", "web")
        assert http["headers"]["x-ticket"] == "good"
        assert http["headers"][":method"] == "GET"
        assert attributes["source"]["principal"] == "spiffe://cluster.local/ns/shop/sa/client"
        source = attributes["source"]["address"]["socketAddress"]
        assert source["address"] == "10.0.0.9"
        assert here.counts == {(AUTHORIZER, ("guard", "allowed")): 1}

    grpc_scene(guard, act)


def test_a_grpc_authorizer_denies_with_its_own_answer() -> None:

    def answer(asked: CheckRequest) -> CheckResponse:
        denied = DeniedHttpResponse(
            status=HttpStatus(code=StatusCode(402)),
            headers=[header("x-why", "pay")],
            body="no money",
        )
        plain = "plain" in http_of(asked).path
        return CheckResponse(status=Status(code=7), denied_response=None if plain else denied)

    guard = Guard(answer)

    async def act(here: Scene) -> None:
        status, head, body = await here.get("/asked")
        assert (status, body) == (402, b"no money")
        assert b"x-why: pay" in head
        assert (await here.get("/asked/plain"))[0] == 403
        wanted = "ext_authz_denied[AuthorizationPolicy shop/ask rule[0]]"
        assert {record.details for record in here.records} == {wanted}

    grpc_scene(guard, act)


def test_a_grpc_authorizer_that_fails_is_closed() -> None:
    guard = Guard(lambda _: grpc.StatusCode.UNAVAILABLE)

    async def act(here: Scene) -> None:
        assert (await here.get("/asked"))[0] == 403
        assert "grpc-status 14 not now" in here.records[0].details

    grpc_scene(guard, act)


def test_a_grpc_authorizer_sees_the_body() -> None:

    guard = Guard(lambda _: CheckResponse(status=Status(code=0)))

    async def act(here: Scene) -> None:
        answer = await here.ask(
            b"POST /asked HTTP/1.1\r\nhost: w\r\ncontent-length: 4\r\n\r\nab\xff\x00"
        )
        assert answer.startswith(b"HTTP/1.1 200")
        http = http_of(guard.asked[0])
        assert http.raw_body == b"ab\xff\x00"
        assert http.size == 4

    grpc_scene(guard, act, BodyCheck(max_bytes=1000))
