"""Who runs where: the question a CA asks before it signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mesh.model.identity import SpiffeId
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import Workload

WAYPOINT_CLASS_LABEL = "gateway.networking.k8s.io/gateway-class-name"
"""Label of a gateway's pods (Gateway API, GEP-1762); its value is the GatewayClass."""

WAYPOINT_CLASS = "meshnode-waypoint"


class IdentityDirectory(Protocol):
    """Knows the nodes' workloads."""

    def runs_on(self, identity: SpiffeId, node: str) -> bool:
        """Whether a workload of the mesh with this identity runs on the node."""
        ...


class SnapshotDirectory:
    """Answers from the mesh's latest snapshot."""

    def __init__(self, get_snapshot: Callable[[], MeshSnapshot]) -> None:
        self._get_snapshot = get_snapshot
        self._indexed: MeshSnapshot | None = None
        self._placements: frozenset[tuple[SpiffeId, str]] = frozenset()

    def runs_on(self, identity: SpiffeId, node: str) -> bool:
        """True for an enrolled workload and for a waypoint (which is never captured itself)."""
        snapshot = self._get_snapshot()
        if snapshot is not self._indexed:
            self._placements = frozenset(
                (workload.identity, workload.node)
                for workload in snapshot.workloads.values()
                if _needs_identity(workload)
            )
            self._indexed = snapshot
        return (identity, node) in self._placements


def _needs_identity(workload: Workload) -> bool:
    return workload.enrolled or workload.labels.get(WAYPOINT_CLASS_LABEL) == WAYPOINT_CLASS
