"""CUSTOM policies: an external authorizer over gRPC, a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest

from mesh.model.address import SocketAddress
from mesh.model.provider import BodyCheck, ExternalAuthorizer, ProviderProtocol
from tests.contract.http1.stage import run
from tests.contract.waypoint.authorizers import ASK, AUTHORIZER, app
from tests.contract.waypoint.scene import PORT, Scene, Script, loopback, scene, service
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

# `append` is deprecated, and in use everywhere.
pytestmark = pytest.mark.filterwarnings("ignore:HeaderValueOption.append:DeprecationWarning")


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
def grpc_guard(
    guard: Guard, credentials: grpc.ServerCredentials | None = None
) -> Iterator[SocketAddress]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(guard.check)
    name = "envoy.service.auth.v3.Authorization"
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(name, {"Check": handler}),)
    )
    port = (
        server.add_insecure_port("127.0.0.1:0")
        if credentials is None
        else server.add_secure_port("127.0.0.1:0", credentials)
    )
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
