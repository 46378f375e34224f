"""The node, put together: what happens when the mesh changes, and who keeps what running.

A change is applied where it forbids first: kernel maps, then workers, then certificates and pods;
then open direct connections are judged again (workers judge theirs).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from dataclasses import replace

from agent.capture.cgroup import agent_cgroup_path
from agent.capture.numbering import Numbering, dump_numbering, numbering_file
from agent.kubernetes.probes import own_addresses
from agent.node.canary import Canary
from agent.node.direct import DirectConnections
from agent.node.holder import HolderKeeper
from agent.node.kernel import KernelPlane
from agent.node.pods import LocalPods
from agent.node.records import Records
from agent.node.strangers import drain_strangers
from agent.node.workers import WorkerOptions, WorkerSupervisor
from agent.options import AgentOptions, KubernetesOption
from agent.paths import NodePaths
from mesh.errors import MeshnodeError
from mesh.identity.rotation import Priority
from mesh.identity.store import CertificateStore
from mesh.model.address import IPAddress
from mesh.model.codes import Code
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import WorkloadUid
from mesh.policy.engine import PolicyIndex
from mesh.privilege import worker_ids
from mesh.sources.objects import ObjectSet
from mesh.state.carry import carry_indexes
from mesh.state.delta import SnapshotDelta, diff
from mesh.state.reducer import Reducer
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.metrics import MeshMetrics
from mesh.telemetry.window_feed import RecentTraffic

log = logging.getLogger(__name__)

HOLDER_CHECK_S = 1.0
GATHER_S = 0.1
BUSY_POLL_S = 0.5
ALL_TRAFFIC_S = 10.0
"""Until open connections are counted that nobody has told of."""
KERNEL_GUARD_S = 1.0
LOOKS_PER_GUARD = 4
"""For links that were detached by force: pods are in plaintext until they are attached again."""


class Node:
    """One node's agent: everything that reacts to a change of the mesh."""

    def __init__(
        self,
        *,
        options: AgentOptions,
        paths: NodePaths,
        access_log: AccessLog,
        kernel: KernelPlane,
        holder: HolderKeeper,
        metrics: MeshMetrics,
        recent: RecentTraffic,
    ) -> None:
        self.options = options
        self.snapshot = MeshSnapshot(revision=0)
        self._reducer = Reducer()
        self._reduced: MeshSnapshot | None = None
        """The snapshot as the objects say it, before settings of the command line."""
        self.kernel = kernel
        self.holder = holder
        self._paths = paths
        self.access_log = access_log
        self.recent = recent
        self._records = Records(metrics, access_log)
        self.tap = self._records.tap
        self._delta: SnapshotDelta | None = None
        """The way to `snapshot` from the one before."""
        self._saved_numbering: Numbering | None = None
        self._policies = PolicyIndex.compile(self.snapshot)
        self.direct = DirectConnections(kernel, lambda: self.snapshot)
        self.canary = Canary(kernel.pods_cgroup, options.node)
        self.pods = LocalPods(holder, kernel, self.canary, self._apply_kernel)
        workers = _worker_options(options, paths)
        self.workers = WorkerSupervisor(workers, holder.worker_channel, self._records)
        self.tap.on_close = self.workers.set_watched
        self._store: CertificateStore | None = None

    def use_store(self, store: CertificateStore) -> None:
        """Keep certificates of local identities in `store` from now on."""
        self._store = store

    # -- the mesh changes -----------------------------------------------------------------------

    def reduce(self, objects: ObjectSet) -> bool:
        """Take in a new set of objects. False if it changes nothing."""
        reduced = self._reducer.reduce(objects)
        if reduced is self._reduced:
            return False
        self._reduced = snapshot = reduced
        if self.options.trust_domain is not None:
            snapshot = _in_trust_domain(reduced, self.options.trust_domain)
        if isinstance(self.options.source, KubernetesOption):
            snapshot = _with_probes_of(snapshot, own_addresses())
        for problem in set(snapshot.problems) - set(self.snapshot.problems):
            # Every new pod is without an address for a moment.
            level = logging.INFO if problem.code is Code.NO_ADDRESS else logging.WARNING
            of = "" if problem.where == problem.subject else f"{problem.subject} "
            log.log(level, "%s: %s%s", problem.where, of, problem.message)
        self._policies = PolicyIndex.compile(snapshot, self._policies)
        self._delta = diff(self.snapshot, snapshot, self._touched())
        self._take_direct_records()
        self.snapshot = snapshot
        return True

    def _touched(self) -> frozenset[WorkloadUid] | None:
        """The workloads that changed, where it is known that no others did."""
        return self._reducer.touched if self.options.trust_domain is None else None

    def apply(self) -> None:
        """Carry out the newest snapshot."""
        judged_by = self.kernel.policy
        self._apply_kernel()
        self.workers.update_snapshot(self.snapshot, self._delta)
        local = self.snapshot.local_workloads(self.options.node)
        if self._store is not None:
            self._store.set_wanted({w.identity: Priority.NOW for w in local})
        self.pods.want(local)
        # The same verdicts between the same pods: their connections may go on.
        same = self.kernel.policy is judged_by
        cut = 0 if same else self.direct.judge_again(self._policies)
        log.info(
            "revision %d: %d workloads, %d services, %d policies, %d direct connections cut",
            self.snapshot.revision,
            len(self.snapshot.workloads),
            len(self.snapshot.services),
            len(self.snapshot.policies),
            cut,
        )

    def _apply_kernel(self) -> None:
        self._take_direct_records()
        self.kernel.apply(self.snapshot, self._policies, self.pods.cookies(), self._delta)
        if self.kernel.numbering is not self._saved_numbering:
            saved = numbering_file(self._paths)
            saved.with_suffix(".new").write_bytes(dump_numbering(self.kernel.numbering))
            saved.with_suffix(".new").replace(saved)
            self._saved_numbering = self.kernel.numbering

    # -- background -----------------------------------------------------------------------------

    async def follow_certificates(self, store: CertificateStore) -> None:
        """Hand every new certificate to the workers."""
        async for update in store.updates():
            self.workers.update_credentials(update.valid, update.gone)

    async def enrol(self) -> None:
        """Take pods in once workers serve; send the workers of an earlier agent home."""
        await self.workers.wait_ready()
        drain_strangers(self._paths, [w.pid for w in self.workers.workers.values()])
        await self.pods.run()

    async def clear_strangers(self) -> None:
        """Let go of namespaces that an earlier agent captured and nobody wants now."""
        await self.pods.settled.wait()
        self.kernel.leave_strangers(set(self.pods.cookies().values()))

    async def watch_holder(self) -> None:
        """Bring a holder back that died; steer to its listeners; give workers new channels."""
        while True:
            await asyncio.sleep(HOLDER_CHECK_S)
            try:
                replaced = await self.holder.ensure()
            except MeshnodeError as error:
                log.error("no holder: %s", error)
                continue
            if replaced:
                for uid, sockets in self.holder.sockets().items():
                    self.kernel.renew_listeners(uid, sockets)
                self.workers.roll()

    async def guard_kernel(self) -> None:
        """Put back what somebody takes away from our state in the kernel."""
        while True:
            for _ in range(LOOKS_PER_GUARD):
                await asyncio.sleep(KERNEL_GUARD_S / LOOKS_PER_GUARD)
                if self.kernel.has_lost_capture():
                    break
            try:
                gone = self.holder.revive()
                for what in gone + self.kernel.repair(self.holder.sockets()):
                    log.error("%s was gone: put back", what)
            except (MeshnodeError, OSError) as error:
                log.error("the kernel's state cannot be repaired: %s", error)

    async def watch_kernel(self) -> None:
        """Collect what the kernel reports of direct and refused connections."""
        loop = asyncio.get_running_loop()
        reported = asyncio.Event()
        all_at = time.monotonic()
        while True:
            # Readable as long as nobody reads: let it wake us once, then collect for a while.
            loop.add_reader(self.direct.fileno(), reported.set)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BUSY_POLL_S if self.direct.is_busy else ALL_TRAFFIC_S):
                    await reported.wait()
            loop.remove_reader(self.direct.fileno())
            reported.clear()
            await asyncio.sleep(GATHER_S)
            now = time.monotonic()
            every_entry = now - all_at >= ALL_TRAFFIC_S
            self._take_direct_records(every_entry=every_entry)
            if every_entry:
                all_at = now
                self.direct.forget_idle_traffic(now)

    def _take_direct_records(self, *, every_entry: bool = False) -> None:
        for record, counted in self.direct.records():
            self._records.direct(record, counted)
        for tally in self.direct.tallies(all_of_them=every_entry):
            self._records.direct_tally(tally)


def _worker_options(options: AgentOptions, paths: NodePaths) -> WorkerOptions:
    uid, gid = worker_ids()
    return WorkerOptions(
        paths=paths,
        count=options.workers,
        cgroup=agent_cgroup_path(paths),
        uid=uid,
        gid=gid,
        log_level=str(options.log_level),
        drain_timeout_s=options.drain_timeout_s,
        expired_grace_s=options.expired_grace_s,
    )


def _with_probes_of(snapshot: MeshSnapshot, node: Iterable[IPAddress]) -> MeshSnapshot:
    """The snapshot with this node's own addresses as sources of health probes."""
    sources = tuple(dict.fromkeys((*snapshot.settings.probe_sources, *node)))
    changed = replace(snapshot, settings=replace(snapshot.settings, probe_sources=sources))
    carry_indexes(snapshot, changed, ())
    return changed


def _in_trust_domain(snapshot: MeshSnapshot, trust_domain: str) -> MeshSnapshot:
    """The snapshot with every workload in the trust domain given on the command line."""
    if snapshot.settings.trust_domain == trust_domain:
        return snapshot
    return replace(
        snapshot,
        settings=replace(snapshot.settings, trust_domain=trust_domain),
        workloads={
            uid: replace(w, trust_domain=trust_domain) for uid, w in snapshot.workloads.items()
        },
    )
