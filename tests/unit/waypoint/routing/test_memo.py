"""Plans are remembered by exactly what they depend on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mesh.http1.message import Framing, RequestHead
from mesh.model.address import SocketAddress, parse_ip
from mesh.model.identity import SpiffeId
from mesh.model.workload import Service, ServiceKey
from waypoint.contract import Origin
from waypoint.routing.dependence import Dependence
from waypoint.routing.memo import MAX_ALL_PLANS, MAX_KEY_BYTES, MAX_PLANS, PlanMemo
from waypoint.routing.plan import Forward, Reply
from waypoint.upstream.target import Group, Speaks

GROUP = Group(name="g", targets=(), speaks=Speaks.HTTP1)
SERVICE = Service(
    key=ServiceKey("n/web"),
    name="web",
    namespace="n",
    hostname="web.n",
    addresses=(),
    ports=(),
    endpoints=(),
)
ORIGIN = Origin(
    principal=SpiffeId(trust_domain="t", namespace="n", service_account="a"),
    client=SocketAddress(parse_ip("10.0.0.1"), 0),
    dialled=SocketAddress(parse_ip("10.96.0.1"), 80),
    service=None,
    workload=None,
)


def head(
    target: bytes = b"/", *headers: tuple[bytes, bytes], method: bytes = b"GET"
) -> RequestHead:
    return RequestHead(
        method=method,
        target=target,
        host=b"w",
        headers=list(headers),
        minor=1,
        framing=Framing.NONE,
        length=None,
        keep_alive=True,
    )


@dataclass(slots=True)
class Planner:
    """Counts; refuses a field's value."""

    depends_on: Dependence | None = Dependence(headers=frozenset(("x-a", "x-b")))  # noqa: RUF009 - frozen
    steady: bool = True
    edits: bool = False
    asked: int = 0
    seen: list[bytes] = field(default_factory=list)

    def depends(self, origin: Origin) -> Dependence | None:
        return self.depends_on

    def plan(self, origin: Origin, head: RequestHead) -> Forward | Reply:
        self.asked += 1
        if (b"x-a", b"bad") in head.headers:
            return Reply(status=403)
        if self.edits:
            head.target = b"/edited"
        return Forward(group=GROUP, steady=self.steady)


def asked(planner: Planner, *heads: RequestHead) -> int:
    memo = PlanMemo(planner)
    for each in heads:
        memo.plan(ORIGIN, each)
    return planner.asked


def test_equal_requests_are_planned_once() -> None:
    assert asked(Planner(), head(), head(b"/?q"), head(b"/", (b"x-c", b"1"))) == 1


def test_everything_that_decides_is_told_apart() -> None:
    assert asked(Planner(), head(), head(b"/b"), head(method=b"PUT")) == 3
    one, other = head(b"/", (b"x-a", b"v")), head(b"/", (b"x-b", b"v"))
    assert asked(Planner(), one, other) == 2
    query = Planner(depends_on=Dependence(query=True))
    assert asked(query, head(b"/?a=1"), head(b"/?a=2")) == 2


def test_another_caller_is_another_plan() -> None:
    planner = Planner()
    memo = PlanMemo(planner)
    again = replace(ORIGIN)  # another connection of the same caller
    stranger = replace(ORIGIN, client=SocketAddress(parse_ip("10.0.0.2"), 0))
    nobody = replace(ORIGIN, principal=None)
    moved = replace(ORIGIN, service=SERVICE)  # the address has changed hands
    for origin in (ORIGIN, again, stranger, nobody, moved):
        memo.plan(origin, head())
    assert planner.asked == 4


def test_refusals_chance_and_edits_are_not_remembered() -> None:
    bad = (b"x-a", b"bad")
    planner = Planner()
    memo = PlanMemo(planner)
    assert all(isinstance(memo.plan(ORIGIN, head(b"/", bad)), Reply) for _ in range(2))
    assert planner.asked == 2
    assert asked(Planner(steady=False), head(), head()) == 2
    assert asked(Planner(edits=True), head(), head()) == 2
    assert asked(Planner(depends_on=None), head(), head()) == 2


def test_what_clients_choose_cannot_fill_the_memory() -> None:
    heads = [head(b"/%d" % number) for number in range(MAX_PLANS + 1)]
    planner = Planner()
    memo = PlanMemo(planner)
    for each in heads:
        memo.plan(ORIGIN, each)
    memo.plan(ORIGIN, heads[0])  # forgotten
    memo.plan(ORIGIN, heads[0])
    assert planner.asked == MAX_PLANS + 2


def test_requests_that_say_much_are_not_remembered() -> None:
    planner = Planner()
    memo = PlanMemo(planner)
    for _ in range(2):
        memo.plan(ORIGIN, head(b"/" + b"a" * MAX_KEY_BYTES))
        memo.plan(ORIGIN, head(b"/", (b"x-a", b"a" * MAX_KEY_BYTES)))
    assert planner.asked == 4


def test_what_all_callers_together_leave_has_an_end() -> None:
    planner = Planner()
    memo = PlanMemo(planner)
    origins = [
        replace(ORIGIN, dialled=SocketAddress(parse_ip("10.96.0.1"), port))
        for port in range(1, MAX_ALL_PLANS // MAX_PLANS + 1)
    ]
    first = head(b"/first")
    memo.plan(ORIGIN, first)
    for origin in origins:
        for number in range(MAX_PLANS):
            memo.plan(origin, head(b"/%d" % number))
    asked = planner.asked
    memo.plan(ORIGIN, first)
    assert planner.asked == asked + 1
