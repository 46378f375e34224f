"""Keeps one node's maps as the mesh wants them: as a whole at first, then by what changed.

A `MapUpkeep` trusts that the maps hold what it wrote. `Audit` looks whether they do, a few entries
at a time, and mends what somebody else changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.capture.change import find_change, renumber
from agent.capture.desired import AgentCgroup, Basis, number_snapshot
from agent.capture.numbering import Numbering
from agent.capture.reconcile import EntryTables, apply_change, reconcile
from mesh.model.kernel import KernelPolicy
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import Workload, WorkloadUid
from mesh.policy.engine import PolicyIndex
from mesh.policy.kernel import compile_kernel_policy
from mesh.state.delta import SnapshotDelta, diff

NO_POLICY = KernelPolicy(src_class={}, dst_class={}, verdicts={}, reasons=())


class MapUpkeep:
    """One writer of one node's maps.

    Args:
        numbering: what an earlier agent gave: open flows and counters carry its numbers.
        extra: workloads beside the snapshot's, of which addresses are captured too.
    """

    def __init__(
        self,
        tables: EntryTables,
        *,
        node: str,
        agent: AgentCgroup,
        numbering: Numbering,
        extra: Sequence[Workload] = (),
    ) -> None:
        self._tables = tables
        self._node = node
        self._agent = agent
        self._saved = numbering
        self._extra = extra
        self.is_whole = False
        """Whether the maps hold all of the basis."""
        self.basis: Basis | None = None

    @property
    def numbering(self) -> Numbering:
        """The numbers that the maps use."""
        return self._saved if self.basis is None else self.basis.numbering

    @property
    def policy(self) -> KernelPolicy:
        """The verdicts that the maps hold."""
        return NO_POLICY if self.basis is None else self.basis.policy

    def apply(
        self,
        snapshot: MeshSnapshot,
        policies: PolicyIndex,
        cookies: Mapping[WorkloadUid, int],
        delta: SnapshotDelta | None = None,
    ) -> None:
        """Make the maps say what the snapshot says.

        Args:
            policies: compiled from the snapshot.
            cookies: network namespaces of the pods captured here.
            delta: the way from the snapshot applied last, where it is known.

        Raises `KernelError` if a map is full, after writing what fits.
        """
        old = self.basis
        if old is None or not self.is_whole:
            self._apply_all(snapshot, policies, cookies)
            return
        if delta is None or (delta.base, delta.revision) != (
            old.snapshot.revision,
            snapshot.revision,
        ):
            delta = diff(old.snapshot, snapshot)
        new = Basis(
            snapshot=snapshot,
            local=cookies,
            policy=self._policy(old, snapshot, policies, delta),
            numbering=renumber(old.numbering, old.snapshot, delta),
            agent=self._agent,
            extra=self._extra,
        )
        change = find_change(old, new, delta)
        self.basis, self.is_whole = new, False
        apply_change(self._tables, change)
        self.is_whole = True

    def _apply_all(
        self,
        snapshot: MeshSnapshot,
        policies: PolicyIndex,
        cookies: Mapping[WorkloadUid, int],
    ) -> None:
        self.basis = basis = Basis(
            snapshot=snapshot,
            local=cookies,
            policy=compile_kernel_policy(policies, snapshot, self._node),
            numbering=number_snapshot(snapshot, self.numbering, self._extra),
            agent=self._agent,
            extra=self._extra,
        )
        reconcile(self._tables, basis.state())
        self.is_whole = True

    def _policy(
        self, old: Basis, snapshot: MeshSnapshot, policies: PolicyIndex, delta: SnapshotDelta
    ) -> KernelPolicy:
        """The verdicts between the pods of this node; the former ones where nothing that they
        are made of has changed."""
        before = old.snapshot
        same = (
            delta.settings is None
            and not (delta.policies or delta.gone_policies)
            and not (delta.peer_authentications or delta.gone_peer_authentications)
            and before.waypoint_workloads == snapshot.waypoint_workloads
            and before.local_workloads(self._node) == snapshot.local_workloads(self._node)
        )
        return old.policy if same else compile_kernel_policy(policies, snapshot, self._node)
