"""Meshes to look at: a small one with every case, and one of a thousand services."""

from __future__ import annotations

import time
from dataclasses import replace

from agent.admin.view import NodeStatus
from mesh.telemetry.denials import Denial
from mesh.telemetry.window import Edge
from mesh.telemetry.window_feed import RecentTraffic
from tests.unit.agent.admin.fake import STATUS, FakeNode

RULE = "AuthorizationPolicy shop/only-cart rule[0]"
START = 1_700_000_000.0


def edge(src: str, dst: str, *, path: str = "hbone", secured: bool = True, route: str = "") -> Edge:
    """An edge between `<namespace>/<name>`s; requests where the path is `waypoint`."""
    (src_namespace, src_name), (dst_namespace, dst_name) = src.split("/"), dst.split("/")
    return Edge(
        reporter="waypoint" if path == "waypoint" else "source",
        path=path,
        src_namespace=src_namespace,
        src=src_name,
        src_identity=f"cluster.local/ns/{src_namespace}/sa/{src_name}" if secured else "",
        dst_namespace=dst_namespace,
        dst=dst_name,
        dst_identity=f"cluster.local/ns/{dst_namespace}/sa/{dst_name}",
        service=dst,
        route=route,
        secured=secured,
    )


def requests(count: int, failed: int = 0, denied: int = 0, slow: int = 0) -> list[int]:
    """Counts of a cell of requests; `slow` ones took 100 to 250 ms, the others 1 to 5."""
    buckets = [0] * 20
    buckets[2], buckets[7] = count - slow, slow
    return [count, count, failed + denied, denied, count * 400, count * 9000, *buckets]


class Clock:
    """Monotonic time that a test moves to make a past."""

    def __init__(self) -> None:
        self.ahead = -900.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def small() -> FakeNode:
    """Six workloads: one fails, one is denied, one speaks plain TCP."""
    clock = Clock()
    recent = RecentTraffic("node/n1", now=clock, clock=time.time)
    window = recent.window
    for slot in range(90):
        clock.ahead = -900.0 + slot * 10
        wave = 10 + (slot * 7) % 13
        window.add(edge("shop/web", "shop/cart", path="waypoint", route="HTTPRoute/shop/cart/0"),
                   requests(wave * 9, slow=wave // 3))  # fmt: skip
        window.add(edge("shop/cart", "bank/pay", path="waypoint"),
                   requests(wave * 3, failed=wave // 2 if slot > 70 else 0))  # fmt: skip
        window.add(edge("shop/web", "shop/search"), (wave, wave, 0, 0, 90_000, 1_400_000))
        window.add(edge("shop/search", "data/redis", path="direct"), (4, 4, 0, 0, 3000, 80_000))
        window.add(edge("legacy/cron", "data/redis", path="passthrough", secured=False),
                   (1, 1, 0, 0, 100, 100))  # fmt: skip
        if slot > 80:
            window.add(edge("shop/old", "bank/pay"), (1, 1, 1, 1, 0, 0))
    clock.ahead = 0.0
    recent.denials.add(denial())
    return FakeNode(healthy(), recent=recent)


def denial() -> Denial:
    return Denial(
        reporter="destination",
        src="shop/old",
        src_identity="cluster.local/ns/shop/sa/old",
        dst="bank/pay",
        service="bank/pay",
        policy=RULE,
        reason=f"denied by {RULE} (deny_rule)",
        example="10.0.0.3:40412 to 10.0.0.2:8080",
        count=9,
        last_at=0.0,
    )


def healthy() -> NodeStatus:
    """The fake's status in the present, so that ages make sense."""
    now = time.time()
    return replace(
        STATUS,
        pods=tuple(replace(pod, since=now - 4000) for pod in STATUS.pods),
        certificates=tuple(
            replace(one, not_before=now - 3600, not_after=now + 82_800)
            for one in STATUS.certificates
        ),
    )


def large(services: int = 1000) -> FakeNode:
    """A thousand services in twenty namespaces, each calling four others."""
    clock = Clock()
    clock.ahead = -30.0
    recent = RecentTraffic("node/n1", now=clock, clock=time.time)
    clock.ahead = 0.0
    names = [f"team-{number % 20:02}/svc-{number:04}" for number in range(services)]
    for number, name in enumerate(names):
        for step in (1, 20, 40, 333):
            other = names[(number + step) % services]
            counts = requests(30 + number % 50, failed=1 if number % 97 == 0 else 0)
            recent.window.add(edge(name, other, path="waypoint"), counts)
    return FakeNode(healthy(), recent=recent)
