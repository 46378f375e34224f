"""Who runs where, from a snapshot."""

from __future__ import annotations

from mesh.identity.directory import WAYPOINT_CLASS, WAYPOINT_CLASS_LABEL, SnapshotDirectory
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import Workload, WorkloadUid
from tests.unit.mesh.identity.builders import NODE, TRUST_DOMAIN, spiffe


def workload(account: str, *, enrolled: bool = True, **labels: str) -> Workload:
    return Workload(
        uid=WorkloadUid(f"pod/shop/{account}"),
        name=account,
        namespace="shop",
        service_account=account,
        trust_domain=TRUST_DOMAIN,
        node=NODE,
        addresses=(),
        enrolled=enrolled,
        labels={key.replace("_", "-"): value for key, value in labels.items()},
    )


def snapshot(revision: int, *workloads: Workload) -> MeshSnapshot:
    return MeshSnapshot(revision=revision, workloads={w.uid: w for w in workloads})


def test_enrolled_workloads_and_waypoints_on_their_node_only() -> None:
    waypoint = workload("gate", enrolled=False, **{WAYPOINT_CLASS_LABEL: WAYPOINT_CLASS})
    ingress = workload("edge", enrolled=False, **{WAYPOINT_CLASS_LABEL: "other"})
    current = snapshot(1, workload("web"), workload("plain", enrolled=False), waypoint, ingress)
    directory = SnapshotDirectory(lambda: current)
    assert directory.runs_on(spiffe("web"), NODE)
    assert directory.runs_on(spiffe("gate"), NODE)
    assert not directory.runs_on(spiffe("web"), "node-b")
    assert not directory.runs_on(spiffe("plain"), NODE)
    assert not directory.runs_on(spiffe("edge"), NODE)
    assert not directory.runs_on(spiffe("web", trust_domain="other"), NODE)


def test_a_new_snapshot_counts_at_once() -> None:
    snapshots = [snapshot(1, workload("web")), snapshot(2)]
    directory = SnapshotDirectory(lambda: snapshots[0])
    assert directory.runs_on(spiffe("web"), NODE)
    del snapshots[0]
    assert not directory.runs_on(spiffe("web"), NODE)
