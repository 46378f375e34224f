"""A small node that stands behind the admin server, and the mesh it knows."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from agent.admin.server import Gate, OwnerOf, serve_admin, serve_view
from agent.admin.view import (
    BpfDiff,
    CertificateState,
    CertificateStatus,
    FlowEvent,
    HolderStatus,
    KernelEntries,
    LiveConnection,
    LogLevel,
    NodeStatus,
    PodState,
    PodStatus,
    WorkerStatus,
)
from agent.capture.views import KernelTable
from mesh.errors import MeshnodeError
from mesh.model.address import SocketAddress, parse_ip
from mesh.model.connection import ConnectionRecord, Reporter
from mesh.model.connection import Path as BytesPath
from mesh.model.policy import (
    AuthorizationPolicy,
    L4Match,
    PolicyAction,
    PolicyKey,
    PolicyScope,
    Rule,
    StringMatch,
)
from mesh.model.snapshot import MeshSnapshot, Problem
from mesh.model.workload import (
    Endpoint,
    Service,
    ServiceKey,
    ServicePort,
    Workload,
    WorkloadUid,
)
from mesh.telemetry.tap import Tap
from mesh.telemetry.window_answer import Traffic
from mesh.telemetry.window_feed import RecentTraffic

T = TypeVar("T")
COOKIE = "18446744073709551615"


def workload(
    name: str, address: str, *, namespace: str = "shop", enrolled: bool = True
) -> Workload:
    return Workload(
        uid=WorkloadUid(f"pod/{namespace}/{name}"),
        name=name,
        namespace=namespace,
        service_account=name,
        trust_domain="cluster.local",
        node="n1",
        addresses=(parse_ip(address),),
        enrolled=enrolled,
    )


def _only(client: Workload) -> AuthorizationPolicy:
    principal = StringMatch(kind="exact", value=client.identity.principal)
    return AuthorizationPolicy(
        key=PolicyKey(f"shop/only-{client.name}"),
        namespace="shop",
        name=f"only-{client.name}",
        scope=PolicyScope.NAMESPACE,
        action=PolicyAction.ALLOW,
        rules=(Rule(sources=(L4Match(principals=(principal,)),)),),
    )


def mesh() -> MeshSnapshot:
    """cart and pay are enrolled, old is not; only cart may reach pay."""
    workloads = (
        workload("cart", "10.0.0.1"),
        workload("pay", "fd00::2"),
        workload("old", "10.0.0.3", enrolled=False),
    )
    service = Service(
        key=ServiceKey("shop/payments"),
        name="payments",
        namespace="shop",
        hostname="payments.shop.svc.cluster.local",
        addresses=(parse_ip("10.96.0.1"),),
        ports=(ServicePort(port=80),),
        endpoints=(
            Endpoint(address=parse_ip("fd00::2"), workload=workloads[1].uid, ports={80: 8080}),
        ),
    )
    only_cart = _only(workloads[0])
    return MeshSnapshot(
        revision=7,
        workloads={w.uid: w for w in workloads},
        services={service.key: service},
        policies={only_cart.key: only_cart},
    )


STATUS = NodeStatus(
    node="n1",
    version="0.1.0",
    pid=42,
    started_at=1_700_000_000.0,
    source="file:/etc/mesh",
    revision=7,
    applied_revision=7,
    pods=(
        PodStatus(
            uid="pod/shop/cart",
            namespace="shop",
            name="cart",
            state=PodState.ACTIVE,
            identity="spiffe://cluster.local/ns/shop/sa/cart",
            cookie=COOKIE,
            since=1_700_000_010.0,
            addresses=("10.0.0.1",),
        ),
        PodStatus(
            uid="pod/shop/pay",
            namespace="shop",
            name="pay",
            state=PodState.FAILED,
            reason="canary: connection refused",
            since=1_700_000_020.0,
        ),
    ),
    workers=(
        WorkerStatus(pid=43, ready=True, revision=7, tunnels=1, streams=2, rss_bytes=1 << 24),
    ),
    holder=HolderStatus(pid=41, alive=True),
    problems=(Problem(where="a.yaml:3", subject="Pod shop/x", message="no IP"),),
    certificates=(
        CertificateStatus(
            identity="spiffe://cluster.local/ns/shop/sa/cart",
            state=CertificateState.VALID,
            serial="0a",
            not_before=1_700_000_000.0,
            not_after=1_700_086_400.0,
            next_renewal_at=1_700_043_200.0,
        ),
    ),
    open_connections={"hbone": 2},
)


IDENTITY: dict[str, object] = {
    "address": "10.0.0.1",
    "workload": 7,
    "netns_cookie": COOKIE,
    "dst_class": 1,
    "flags": ["enrolled"],
}
DROPS: tuple[dict[str, object], ...] = (
    {"reason": "denied", "number": 1, "count": 3, "refusal": True},
    {"reason": "allowed", "number": 2, "count": 9, "refusal": False},
    {"reason": "no_listener", "number": 3, "count": 0, "refusal": True},
)


@dataclass
class FakeNode:
    """Implements `agent.admin.view.NodeView` from plain values."""

    state: NodeStatus = STATUS
    known: MeshSnapshot = field(default_factory=mesh)
    diff: BpfDiff | MeshnodeError = field(
        default_factory=lambda: BpfDiff(node="n1", revision=7, compared=12)
    )
    recent: RecentTraffic = field(
        default_factory=lambda: RecentTraffic("node/n1", now=time.monotonic, clock=time.time)
    )
    tap: Tap[ConnectionRecord] = field(default_factory=Tap)
    flows: Tap[FlowEvent] = field(default_factory=Tap)

    def status(self) -> NodeStatus:
        return self.state

    def traffic(self, seconds: float, *, points: bool, about: str) -> Traffic:
        return self.recent.answer(seconds, points=points, about=about)

    def snapshot(self) -> MeshSnapshot:
        return self.known

    async def connections(self) -> Sequence[LiveConnection]:
        return [
            LiveConnection(
                reporter=Reporter.SOURCE,
                path=BytesPath.HBONE,
                src_addr="10.0.0.1:40000",
                dst_addr="[fd00::2]:8080",
                opened_at=1_700_000_030.0,
                src="shop/cart",
                dst="shop/pay",
                bytes_sent=5,
                bytes_received=6,
            )
        ]

    async def bpf_diff(self) -> BpfDiff:
        if isinstance(self.diff, MeshnodeError):
            raise self.diff
        return self.diff

    async def kernel_table(self, table: KernelTable) -> KernelEntries:
        entries: dict[KernelTable, tuple[dict[str, object], ...]] = {
            KernelTable.IDENTITY: (IDENTITY,),
            KernelTable.DROPS: DROPS,
        }
        return KernelEntries(
            node=self.state.node,
            table=table,
            entries=entries.get(table, ()),
            workloads={7: "shop/cart"},
            services={},
        )

    def set_log_level(self, level: LogLevel) -> None:
        self.state = replace(self.state, log_level=level)


@contextmanager
def running_admin(node: FakeNode, path: Path) -> Iterator[None]:
    """Serve the node's admin socket from a thread with its own loop while the context is open."""
    with _in_thread(lambda: serve_admin(node, path)):
        yield


@contextmanager
def running_view(
    node: FakeNode, owner_of: OwnerOf = lambda _here, _there: 0, gate: Gate | None = None
) -> Iterator[int]:
    """Serve the node's view for readers of uid 0, or of the uid given; yields the port."""
    address = SocketAddress(parse_ip("127.0.0.1"), 0)
    with _in_thread(lambda: serve_view(node, address, owner_of, gate)) as used:
        assert used is not None
        yield used.port


@contextmanager
def _in_thread(serving: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    ready, stop = threading.Event(), threading.Event()
    failure: list[BaseException] = []
    opened: list[T] = []

    async def serve() -> None:
        async with serving() as found:
            opened.append(found)
            ready.set()
            await asyncio.to_thread(stop.wait)

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failure.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(10)
    try:
        if not failure:
            yield opened[0]
    finally:
        stop.set()
        thread.join(10)
    if failure:
        raise failure[0]
