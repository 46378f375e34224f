"""Objects that are wrong: what they say is refused with a reason, the rest keeps working."""

from __future__ import annotations

from collections import Counter

import uvloop

from mesh.model.routing import RouteKey
from mesh.routing.problems import routing_problems
from mesh.routing.status import ParentStatus, route_statuses
from tests.contract.conformance.clients import Http1Client
from tests.contract.conformance.run import Player, Wire
from tests.contract.conformance.world import World, world
from tests.unit.mesh.routing.conformance.model import NAMESPACE, Ask, Case, route, services, to, v

V1, V2 = to("echo-v1"), to("echo-v2")
_RULE = "  - matches: [{path: {value: %s}}]\n    backendRefs: [%s]\n"


async def status_of(here: World, ask: Ask) -> int:
    client = Http1Client(*await here.connect(ask.caller, here.address(ask)))
    return (await client.ask(ask)).status


def condition(here: World, key: str) -> dict[str, tuple[bool, str, str]]:
    """Conditions of a route by type: status, reason, message."""
    parent: ParentStatus
    (parent,) = route_statuses(here.snapshot)[
        RouteKey(f"{key.partition('/')[0]}/{NAMESPACE}/{key.partition('/')[2]}")
    ]
    return {item.type: (item.status, item.reason, item.message) for item in parent.conditions}


def test_an_expression_that_re2_refuses_drops_its_rule_and_says_so() -> None:
    objects = services() + route(
        "  rules:\n"
        "  - matches: [{path: {type: RegularExpression, value: '/(a)\\1'}}]\n"
        f"    backendRefs: [{V1}]\n"
        "  - matches: [{headers: [{name: x, type: RegularExpression, value: '(?=a)'}]}]\n"
        f"    backendRefs: [{V1}]\n" + _RULE % ("/good", V2)
    )

    async def main() -> None:
        async with world(Case(name="regex", objects=objects), strict=False) as here:
            player = Player(here, Wire.HTTP1)
            await player.check(Ask(path="/good"), v(2))
            assert await status_of(here, Ask(path="/aa")) == 404
            found = condition(here, "HTTPRoute/mesh")
            assert found["Accepted"][0]
            partial = found["PartiallyInvalid"]
            assert partial[0]
            assert partial[2].startswith("Dropped Rule")
            assert "rules[0].matches[0].path.value" in partial[2]
            assert "rules[1].matches[0].headers[0].value" in partial[2]
            texts = [f"{p.subject}: {p.message}" for p in here.snapshot.problems]
            assert any("mesh" in text and "rules[0]" in text for text in texts), texts

    uvloop.run(main())


def test_one_unreadable_route_leaves_the_others() -> None:
    objects = (
        services()
        + route("  rules: [{backendRefs: [{name: echo-v1, port: many}]}]\n", name="broken")
        + route(f"  rules: [{{backendRefs: [{V2}], timeouts: {{request: soon}}}}]\n", name="late")
        + route(f"  rules:\n{_RULE % ('/good', V2)}", name="good")
    )

    async def main() -> None:
        async with world(Case(name="broken", objects=objects), strict=False) as here:
            await Player(here, Wire.HTTP1).check(Ask(path="/good"), v(2))
            texts = [f"{p.subject}: {p.message}" for p in here.snapshot.problems]
            assert any("broken" in text and "port" in text for text in texts), texts
            assert any("late" in text and "request" in text for text in texts), texts

    uvloop.run(main())


def test_a_missing_backend_takes_its_share_as_500_and_no_more() -> None:
    half = f"{to('echo-v1', more=', weight: 1')}, {to('gone', more=', weight: 1')}"
    objects = services() + route(f"  rules: [{{backendRefs: [{half}]}}]\n")

    async def main() -> None:
        async with world(Case(name="share", objects=objects)) as here:
            client = Http1Client(*await here.connect(NAMESPACE, here.address(Ask())))
            counts = Counter([(await client.ask(Ask())).status for _ in range(400)])
            assert set(counts) == {200, 500}
            assert 140 < counts[500] < 260
            reasons = [problem.message for problem in routing_problems(here.snapshot)]
            assert any("BackendNotFound" in text for text in reasons)

    uvloop.run(main())


def test_a_service_without_a_ready_endpoint_is_503() -> None:
    empty = (
        "---\napiVersion: v1\nkind: Service\n"
        f"metadata: {{name: empty, namespace: {NAMESPACE}}}\n"
        "spec: {clusterIP: 10.96.9.9, ports: [{port: 80}]}\n"
    )
    objects = services() + empty + route(f"  rules: [{{backendRefs: [{to('empty')}]}}]\n")

    async def main() -> None:
        async with world(Case(name="empty", objects=objects)) as here:
            assert await status_of(here, Ask()) == 503
            assert here.records[-1].flag == "UH"

    uvloop.run(main())


def test_of_conflicting_routes_one_holds_and_the_other_is_told() -> None:
    grpc = "  rules: [{matches: [{method: {service: a.B}}], backendRefs: [%s]}]\n"
    objects = (
        services()
        + route(f"  rules: [{{backendRefs: [{V1}]}}]\n", name="http")
        + route(grpc % to("echo-v2", 7070), kind="GRPCRoute", name="grpc")
        + route(f"  rules: [{{backendRefs: [{V1}]}}]\n", kind="TCPRoute", name="tcp")
    )

    async def main() -> None:
        async with world(Case(name="conflict", objects=objects)) as here:
            assert condition(here, "GRPCRoute/grpc")["Accepted"][:2] == (True, "Accepted")
            for loser in ("HTTPRoute/http", "TCPRoute/tcp"):
                status, reason, message = condition(here, loser)["Accepted"]
                assert (status, reason) == (False, "Conflicted")
                assert "GRPCRoute" in message
            assert await status_of(here, Ask()) == 404  # the winner's rules, and nothing else

    uvloop.run(main())


def test_a_route_beyond_the_limits_of_the_standard_is_refused_whole() -> None:
    many = "".join(_RULE % (f"/{number}", V1) for number in range(17))
    objects = services() + route(f"  rules:\n{many}", name="many")

    async def main() -> None:
        async with world(Case(name="many", objects=objects), strict=False) as here:
            texts = [f"{p.subject}: {p.message}" for p in here.snapshot.problems]
            assert any("many" in text and "16" in text for text in texts), texts
            assert await status_of(here, Ask()) == 200  # as if it were not there

    uvloop.run(main())
