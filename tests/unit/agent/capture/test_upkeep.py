"""Following changes leaves the maps as reading everything anew would; an audit mends the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings

from agent.capture.audit import Audit
from agent.capture.desired import AgentCgroup, Basis, port_keys
from agent.capture.maps import decode_config, encode_cookie, encode_pod, encode_state
from agent.capture.numbering import Numbering
from agent.capture.upkeep import MapUpkeep
from bpf.layout import ConfigFlag
from mesh.errors import KernelError
from mesh.model.address import parse_ip
from mesh.model.kernel import KernelPolicy, VerdictReason
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import (
    Endpoint,
    Service,
    ServiceKey,
    ServicePort,
    Workload,
    WorkloadUid,
)
from mesh.policy.engine import PolicyIndex
from mesh.policy.kernel import compile_kernel_policy
from mesh.sources.objects import ObjectSet, SourceObject
from mesh.state.delta import diff
from mesh.state.reducer import Reducer
from tests.unit.agent.capture.memory_tables import MemoryTables
from tests.unit.mesh.state.test_incremental import histories, manifest, read

NODE = "n1"
AGENT = AgentCgroup(id=1, level=1)


def upkeep_of(tables: MemoryTables) -> MapUpkeep:
    return MapUpkeep(tables, node=NODE, agent=AGENT, numbering=Numbering(), extra=(CANARY,))


def workload(name: str, *addresses: str, node: str = NODE) -> Workload:
    return Workload(
        uid=WorkloadUid(f"pod/ns/{name}"),
        name=name,
        namespace="ns",
        service_account=name,
        trust_domain="cluster.local",
        node=node,
        addresses=tuple(map(parse_ip, addresses)),
        enrolled=True,
    )


CANARY = workload("canary", "192.0.2.1", node="")


ENABLED = [
    read(manifest("Namespace", "v1", "", name, {"labels": {"meshnode.io/dataplane": "enabled"}}))
    for name in ("a", "b")
]


def enrol(tables: MemoryTables, basis: Basis) -> None:
    """Capture the pods that should be, and let go of the others, as `Enrolment` does."""
    pods = {encode_cookie(c): encode_pod(entry) for c, entry in basis.pods.items()}
    entries = tables["mn_enrolled"].entries
    for key in [key for key in entries if key not in pods]:
        del entries[key]
    for key, value in pods.items():
        entries.setdefault(key, value)


def known_verdicts(
    policy: KernelPolicy, uids: Sequence[WorkloadUid]
) -> Mapping[tuple[WorkloadUid, WorkloadUid, int], VerdictReason | None]:
    return {(a, b, port): policy.reason(a, b, port) for a in uids for b in uids for port in (0, 80)}


@settings(max_examples=20, deadline=None)
@given(history=histories())
def test_following_leaves_what_reading_anew_would(
    history: Sequence[list[SourceObject]],
) -> None:
    tables, reducer = MemoryTables(), Reducer()
    upkeep = upkeep_of(tables)
    snapshot, policies = MeshSnapshot(revision=0), PolicyIndex(MeshSnapshot(revision=0))
    cookies: dict[WorkloadUid, int] = {}
    for step, objects in enumerate(history):
        pods = [item for item in objects if item.kind != "Namespace"]
        found = reducer.reduce(ObjectSet(objects=(*ENABLED, *pods)))
        delta = diff(snapshot, found, reducer.touched)
        snapshot, policies = found, PolicyIndex.compile(found, policies)
        upkeep.apply(snapshot, policies, dict(cookies), delta)
        check(upkeep, tables, snapshot, cookies)
        local = snapshot.local_workloads(NODE)
        cookies = {w.uid: hash(w.uid) % 2**32 + step // 3 for w in local[step % 2 :]}
        upkeep.apply(snapshot, policies, dict(cookies))
        check(upkeep, tables, snapshot, cookies)


def check(
    upkeep: MapUpkeep,
    tables: MemoryTables,
    snapshot: MeshSnapshot,
    cookies: Mapping[WorkloadUid, int],
) -> None:
    basis = upkeep.basis
    assert basis is not None
    enrol(tables, basis)
    anew = MeshSnapshot(**{name: getattr(snapshot, name) for name in snapshot.__dataclass_fields__})
    policy = compile_kernel_policy(PolicyIndex(anew), anew, NODE)
    uids = [w.uid for w in anew.local_workloads(NODE)]
    assert known_verdicts(upkeep.policy, uids) == known_verdicts(policy, uids)
    assert upkeep.numbering.workloads.keys() == {*anew.workloads, CANARY.uid}
    ports = {key for service in anew.services.values() for key in port_keys(service)}
    assert upkeep.numbering.services.keys() == ports
    numbers = [*upkeep.numbering.workloads.values(), *upkeep.numbering.services.values()]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers) < upkeep.numbering.next_number
    assert upkeep.numbering.workload_names() == {
        number: uid for uid, number in upkeep.numbering.workloads.items()
    }
    expected = Basis(
        snapshot=anew,
        local=cookies,
        policy=upkeep.policy,
        numbering=upkeep.numbering,
        agent=AGENT,
        extra=(CANARY,),
    ).state()
    wanted = {name: dict(entries) for name, entries in encode_state(expected).items() if entries}
    assert tables.content() == wanted


# -- what a change costs --------------------------------------------------------------------------


def mesh(*workloads: Workload, revision: int = 1) -> MeshSnapshot:
    service = Service(
        key=ServiceKey("ns/svc"),
        name="svc",
        namespace="ns",
        hostname="svc.ns.svc.cluster.local",
        addresses=(parse_ip("10.0.0.1"),),
        ports=(ServicePort(port=80),),
        endpoints=tuple(
            Endpoint(address=a, workload=w.uid, ports={80: 8080})
            for w in workloads
            for a in w.addresses
        ),
    )
    return MeshSnapshot(
        revision=revision,
        workloads={w.uid: w for w in workloads},
        services={service.key: service},
    )


FAR = [workload(f"far{n}", f"10.9.0.{n}", node="n2") for n in range(1, 100)]


def test_a_change_of_one_pod_touches_its_entries_only() -> None:
    tables = MemoryTables()
    upkeep = upkeep_of(tables)
    first = mesh(*FAR)
    upkeep.apply(first, PolicyIndex(first), {})
    policy = upkeep.policy
    tables.log.clear()
    moved = replace(FAR[7], waypoint="ns/w")
    second = mesh(*FAR[:7], moved, *FAR[8:], revision=2)
    second = replace(second, services=first.services)
    upkeep.apply(second, PolicyIndex(second), {})
    assert tables.log == [("write", "mn_workload")]
    assert upkeep.policy is policy  # Nothing of this node's own pods has changed.


def test_verdicts_are_emptied_while_classes_move() -> None:
    tables = MemoryTables()
    upkeep = upkeep_of(tables)
    first, second = replace(workload("a", "10.1.0.1"), waypoint="ns/w"), workload("b", "10.1.0.2")
    both, one = mesh(first, second), mesh(second, revision=2)
    upkeep.apply(both, PolicyIndex(both), {first.uid: 1, second.uid: 2})
    assert upkeep.policy.dst_class[second.uid] == 2
    basis = upkeep.basis
    assert basis is not None
    enrol(tables, basis)
    tables.log.clear()
    upkeep.apply(one, PolicyIndex(one), {second.uid: 2})
    assert upkeep.policy.dst_class[second.uid] == 1
    steps = [step for step in tables.log if step[1] in ("mn_verdict", "mn_workload", "mn_enrolled")]
    assert list(dict.fromkeys(steps)) == [
        ("delete", "mn_verdict"),
        ("write", "mn_workload"),
        ("write", "mn_enrolled"),
        ("write", "mn_verdict"),
        ("delete", "mn_workload"),
    ]
    assert steps.count(("delete", "mn_verdict")) == 4  # Of two sources to two destinations.


def test_a_change_in_a_map_that_is_full_is_tried_again() -> None:
    tables = MemoryTables()
    upkeep = upkeep_of(tables)
    first, second = mesh(FAR[0]), mesh(*FAR[:2], revision=2)
    upkeep.apply(first, PolicyIndex(first), {})
    tables["mn_workload"].limit = 2  # One, and the canary's.
    with pytest.raises(KernelError, match="mn_workload"):
        upkeep.apply(second, PolicyIndex(second), {})
    assert ConfigFlag.INCOMPLETE in decode_config(tables["mn_config"].entries[bytes(4)]).flags
    tables["mn_workload"].limit = 10
    upkeep.apply(second, PolicyIndex(second), {})
    assert len(tables["mn_workload"].entries) == 3
    assert ConfigFlag.INCOMPLETE not in decode_config(tables["mn_config"].entries[bytes(4)]).flags


# -- what somebody else changed -------------------------------------------------------------------


def audit_all(audit: Audit) -> list[str]:
    """Two passes: one may be half done."""
    return [what for _ in range(40) for what in audit.step()]


def test_an_audit_finds_nothing_where_nothing_was_changed() -> None:
    tables = MemoryTables()
    upkeep = upkeep_of(tables)
    audit = Audit(tables, lambda: upkeep.basis, at_a_time=50)
    assert audit_all(audit) == []
    snapshot = mesh(*FAR)
    upkeep.apply(snapshot, PolicyIndex(snapshot), {})
    assert audit_all(audit) == []


@pytest.mark.parametrize("name", ["mn_workload", "mn_service", "mn_backend"])
def test_an_audit_puts_back_and_removes(name: str) -> None:
    tables = MemoryTables()
    upkeep = upkeep_of(tables)
    snapshot = mesh(*FAR)
    upkeep.apply(snapshot, PolicyIndex(snapshot), {})
    entries = tables[name].entries
    whole = dict(entries)
    lost, *others = entries
    value = entries.pop(lost)
    for key in others[:1]:
        entries[key] = bytes(len(value))
    entries[b"\x77" * len(lost)] = value
    audit = Audit(tables, lambda: upkeep.basis, at_a_time=50)
    assert set(audit_all(audit)) == {f"{name}: an entry", f"{name}: a stale entry"}
    assert entries == whole
    assert audit_all(audit) == []
