from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from agent.capture.desired import (
    AgentCgroup,
    Basis,
    ExcludedNet,
    ExclusionEntry,
    KernelState,
    number_snapshot,
)
from agent.capture.numbering import Numbering
from bpf.layout import ConfigFlag, Exclusion, PodFlag, ServiceFlag, WorkloadFlag
from mesh.model.address import SocketAddress, parse_ip
from mesh.model.kernel import KernelPolicy, KernelVerdict, VerdictKey, VerdictValue
from mesh.model.snapshot import MeshSettings, MeshSnapshot, SameNode
from mesh.model.workload import (
    Endpoint,
    Exclusions,
    Service,
    ServiceKey,
    ServicePort,
    Workload,
    WorkloadUid,
)

AGENT = AgentCgroup(id=42, level=1)


def workload(name: str, *addresses: str, enrolled: bool = True) -> Workload:
    return Workload(
        uid=WorkloadUid(f"pod/ns/{name}"),
        name=name,
        namespace="ns",
        service_account="default",
        trust_domain="cluster.local",
        node="n1",
        addresses=tuple(parse_ip(a) for a in addresses),
        enrolled=enrolled,
    )


def service(*endpoints: Endpoint, waypoint: str | None = None) -> Service:
    return Service(
        key=ServiceKey("ns/svc"),
        name="svc",
        namespace="ns",
        hostname="svc.ns.svc.cluster.local",
        addresses=(ip_address("10.0.0.1"), ip_address("fd00::1")),
        ports=(ServicePort(port=80),),
        endpoints=endpoints,
        waypoint=waypoint,
    )


def endpoint(address: str, target: int = 8080, *, ready: bool = True, port: int = 80) -> Endpoint:
    return Endpoint(address=parse_ip(address), workload=None, ports={port: target}, ready=ready)


A, B = workload("a", "10.1.0.1", "fd01::1"), workload("b", "10.1.0.2")
POLICY = KernelPolicy(
    src_class={A.uid: 1},
    dst_class={A.uid: 2, B.uid: 3},
    verdicts={VerdictKey(1, 3, 0): VerdictValue(KernelVerdict.ALLOW, 0)},
    reasons=(),
)


def state_of(
    *workloads: Workload,
    services: tuple[Service, ...] = (),
    settings: MeshSettings | None = None,
    local: dict[WorkloadUid, int] | None = None,
) -> KernelState:
    snapshot = MeshSnapshot(
        revision=1,
        settings=settings or MeshSettings(),
        workloads={w.uid: w for w in workloads},
        services={s.key: s for s in services},
    )
    return Basis(
        snapshot=snapshot,
        local={A.uid: 100} if local is None else local,
        policy=POLICY,
        numbering=number_snapshot(snapshot, Numbering()),
        agent=AGENT,
    ).state()


def test_local_and_remote_workloads() -> None:
    state = state_of(A, B, workload("c", "10.1.0.3", enrolled=False))
    local = state.workloads[ip_address("10.1.0.1")]
    assert (local.netns_cookie, local.dst_class, local.flags) == (100, 2, WorkloadFlag.ENROLLED)
    assert state.workloads[ip_address("fd01::1")] == local
    remote = state.workloads[ip_address("10.1.0.2")]
    assert (remote.netns_cookie, remote.dst_class) == (0, 3)
    assert state.workloads[ip_address("10.1.0.3")].flags == WorkloadFlag(0)
    assert state.pods[100].src_class == 1
    assert state.pods[100].workload == local.workload
    assert state.verdicts == POLICY.verdicts


def test_pod_that_the_snapshot_forgot_is_left_out() -> None:
    assert state_of(B).pods == {}


def test_unknown_class_is_zero() -> None:
    state = state_of(A, B, local={B.uid: 7})
    assert state.pods[7].src_class == 0


def test_waypoint_is_never_direct() -> None:
    state = state_of(replace(A, waypoint="ns/w"))
    assert WorkloadFlag.WAYPOINT in state.workloads[ip_address("10.1.0.1")].flags


def test_exclusions_are_keyed_by_namespace() -> None:
    exclusions = Exclusions(
        outbound_ports=frozenset({25}),
        outbound_uids=frozenset({0}),
        outbound_cidrs=(ip_network("192.0.2.0/24"),),
        inbound_ports=frozenset({9090}),
    )
    state = state_of(replace(A, exclusions=exclusions))
    assert state.exclusions == {
        ExclusionEntry(100, Exclusion.PORT, 25),
        ExclusionEntry(100, Exclusion.UID, 0),
        ExclusionEntry(100, Exclusion.INBOUND, 9090),
    }
    assert state.excluded_nets == {ExcludedNet(100, ip_network("192.0.2.0/24"))}
    every = PodFlag.EXCLUDES_PORT | PodFlag.EXCLUDES_UID | PodFlag.EXCLUDES_CIDR
    assert state.pods[100].flags == every
    assert WorkloadFlag.EXCLUDES_INBOUND in state.workloads[ip_address("10.1.0.1")].flags


def test_backends_are_ready_and_of_the_same_family() -> None:
    state = state_of(
        services=(
            service(
                endpoint("10.1.0.9"),
                endpoint("10.1.0.3", ready=False),
                endpoint("10.1.0.4", port=81),
                endpoint("10.1.0.2"),
                endpoint("fd01::9", 8443),
            ),
        )
    )
    v4 = state.services[SocketAddress(ip_address("10.0.0.1"), 80)]
    assert [str(backend) for backend in v4.backends] == ["10.1.0.2:8080", "10.1.0.9:8080"]
    v6 = state.services[SocketAddress(ip_address("fd00::1"), 80)]
    assert [str(backend) for backend in v6.backends] == ["[fd01::9]:8443"]
    assert v4.service != v6.service


def test_service_behind_a_waypoint() -> None:
    state = state_of(services=(service(waypoint="ns/w"),))
    entry = state.services[SocketAddress(ip_address("10.0.0.1"), 80)]
    assert entry.flags is ServiceFlag.WAYPOINT


def test_settings() -> None:
    probe = ip_address("10.9.9.9")
    state = state_of(settings=MeshSettings(same_node=SameNode.ENCRYPT, probe_sources=(probe,)))
    assert state.config.flags is ConfigFlag.ENCRYPT
    assert state.config.agent == AGENT
    assert state.probes == {probe}
