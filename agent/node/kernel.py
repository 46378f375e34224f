"""The node's hold on the kernel: programs loaded, maps as desired, pods captured, flows watched.

Everything here is synchronous and quick; nothing compiles in this process (the loader is a child).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from agent.capture import inspect, links
from agent.capture.audit import Audit
from agent.capture.cgroup import agent_cgroup_path, cgroup_mount, make_agent_cgroup
from agent.capture.desired import AgentCgroup, KernelState, PodEntry
from agent.capture.enrolment import Enrolment, PodCapture
from agent.capture.guard import PinGuard
from agent.capture.numbering import Numbering
from agent.capture.pins import PinnedMaps, open_maps
from agent.capture.transparent import prepare_transparent, undo_transparent
from agent.capture.upkeep import MapUpkeep
from agent.holder.client import PodSockets
from agent.holder.protocol import ListenerName
from agent.netns import netns_cookie, open_netns
from agent.node.canary import CANARY
from agent.paths import NodePaths
from bpf.layout import PROGRAMS, Target
from mesh.errors import KernelError, MeshnodeError
from mesh.model.kernel import KernelPolicy
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import Workload, WorkloadUid
from mesh.policy.engine import PolicyIndex
from mesh.state.delta import SnapshotDelta

log = logging.getLogger(__name__)

LOADER_TIMEOUT_S = 120.0
_CAPTURE = ("mn_connect4", "mn_connect6", "mn_sockops")
"""Links without which pods speak plaintext."""


async def run_loader(paths: NodePaths) -> None:
    """Compile if anything changed, load and pin, in a child. Raises `KernelError`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.capture.loader", "--node", paths.node,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(LOADER_TIMEOUT_S):
            _, said = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise KernelError(
            "loading the kernel programs", hint=said.decode("utf-8", "replace").strip()
        )


class KernelPlane:
    """Maps, links and enrolment of one node. Open it after the loader ran."""

    def __init__(self, paths: NodePaths, pods_cgroup: Path | None) -> None:
        self._paths = paths
        self.maps: PinnedMaps = open_maps(paths)
        self._enrolment = Enrolment(paths, self.maps)
        self.agent_cgroup: AgentCgroup = make_agent_cgroup(paths)
        self._agent_cgroup_path = agent_cgroup_path(paths)
        links.attach_cgroup(paths, Target.AGENT_CGROUP, self._agent_cgroup_path)
        links.update_lookups(paths)
        links.collect_defunct(paths)
        self._guard = PinGuard(paths)
        self._repairs = 0
        self._guard.hold()
        self.pods_cgroup = pods_cgroup or cgroup_mount()
        self._attached = False
        self._captured: dict[WorkloadUid, tuple[int, Workload]] = {}
        self._upkeep = MapUpkeep(
            self.maps,
            node=paths.node,
            agent=self.agent_cgroup,
            numbering=inspect.saved_numbering(paths.node),
            extra=(CANARY,),
        )
        self._audit = Audit(self.maps, lambda: self._upkeep.basis)
        self.problem = ""

    @property
    def numbering(self) -> Numbering:
        """The numbers of workloads and service ports."""
        return self._upkeep.numbering

    @property
    def policy(self) -> KernelPolicy:
        """The verdicts that the kernel holds."""
        return self._upkeep.policy

    def state(self) -> KernelState | None:
        """What the maps are to hold; None before the first `apply`."""
        basis = self._upkeep.basis
        return basis.state() if basis is not None else None

    def apply(
        self,
        snapshot: MeshSnapshot,
        policies: PolicyIndex,
        cookies: Mapping[WorkloadUid, int],
        delta: SnapshotDelta | None = None,
    ) -> None:
        """Make the maps say what the snapshot says; `delta`: the way from the last one. A full
        map is kept as `problem`: what did not fit goes to ztunnel."""
        try:
            self._upkeep.apply(snapshot, policies, cookies, delta)
            self.problem = ""
        except KernelError as error:
            self.problem = str(error)
            log.error("the kernel does not hold everything: %s", error)
        if not self._attached:
            links.attach_cgroup(self._paths, Target.PODS_CGROUP, self.pods_cgroup)
            self._attached = True
            self._guard.hold()

    def _pods(self) -> Mapping[int, PodEntry]:
        basis = self._upkeep.basis
        return basis.pods if basis is not None else {}

    def enrol(self, workload: Workload, netns: str, sockets: PodSockets) -> None:
        """Capture a pod; `apply` must have run with its cookie."""
        entry = self._pods().get(sockets.cookie)
        if entry is None:
            raise KernelError(f"enrolling {workload.uid}", hint="The mesh state is not there yet.")
        plaintext = sockets.listeners[ListenerName.PLAINTEXT]
        netns_fd = open_netns(netns)
        try:
            prepare_transparent(netns_fd)
            self._enrolment.enrol(
                PodCapture(
                    netns_cookie=sockets.cookie,
                    netns_fd=netns_fd,
                    plaintext=dict.fromkeys(workload.addresses, plaintext),
                    entry=entry,
                )
            )
        finally:
            os.close(netns_fd)
        self._captured[workload.uid] = (sockets.cookie, workload)
        self._guard.hold()

    def renew_listeners(self, uid: WorkloadUid, sockets: PodSockets) -> None:
        """Steer a pod's inbound connections to the listener that a new holder has."""
        captured = self._captured.get(uid)
        if captured is not None:
            for address in captured[1].addresses:
                self._enrolment.set_listener(address, sockets.listeners[ListenerName.PLAINTEXT])

    def leave(self, uid: WorkloadUid) -> None:
        """Let a pod go; harmless if it is not captured."""
        captured = self._captured.pop(uid, None)
        if captured is None:
            return
        cookie, workload = captured
        self._enrolment.leave(cookie, workload.addresses)
        if workload.netns is not None:
            try:
                netns_fd = open_netns(workload.netns)
            except KernelError:
                return  # The namespace is gone, and its routes with it.
            try:
                undo_transparent(netns_fd)
            except MeshnodeError as error:
                log.warning("%s: routes were not removed: %s", uid, error)
            finally:
                os.close(netns_fd)

    def leave_strangers(self, cookies: set[int]) -> None:
        """Let go of namespaces that an earlier agent captured and that are gone or unwanted."""
        for cookie in self._enrolment.enrolled() - cookies:
            self._enrolment.leave(cookie, ())

    # -- what others took away ------------------------------------------------------------------

    def repair(self, sockets: Mapping[WorkloadUid, PodSockets]) -> list[str]:
        """Put back pins, attachments, captured pods, listeners and entries of maps that are gone;
        their names.

        Every other call looks at the same pods' entries; at pins and attachments each of them; at
        the maps' entries a few in turn.

        Raises `KernelError` for the first that cannot be put back.
        """
        repaired = [f"pin {name}" for name in self._guard.restore()]
        repaired += self._attach_again()
        # Half of the pods at a time: with hundreds of them it is work.
        self._repairs += 1
        pods = self._pods()
        for index, (uid, (cookie, workload)) in enumerate(self._captured.items()):
            if index % 2 == self._repairs % 2:
                continue
            entry = pods.get(cookie)
            if entry is not None and uid in sockets:
                listener = sockets[uid].listeners[ListenerName.PLAINTEXT]
                again = self._enrolment.restore(cookie, entry, workload.addresses, listener)
                repaired += [f"{what} of {uid}" for what in again]
        if repaired:
            self._guard.hold()
        # What is missing because a map is full cannot be put back by one who looks for it.
        return repaired + (self._audit.step() if self._upkeep.is_whole else [])

    def has_lost_capture(self) -> bool:
        """Whether somebody detached what captures the pods' connections: no event tells of it."""
        return self._attached and self._guard.has_lost(_CAPTURE)

    def _attach_again(self) -> list[str]:
        repaired = []
        cgroups = {Target.AGENT_CGROUP: self._agent_cgroup_path}
        if self._attached:
            cgroups[Target.PODS_CGROUP] = self.pods_cgroup
        for target, cgroup in cgroups.items():
            names = [spec.name for spec in PROGRAMS if spec.target is target]
            lost = [name for name in names if not self._guard.has_attached(name)]
            if lost:
                links.attach_cgroup(self._paths, target, cgroup)
                repaired += [f"link {name}" for name in lost]
        for cookie, workload in self._captured.values():
            name = f"{links.LOOKUP_PREFIX}{cookie}"
            if not self._guard.has_attached(name) and self._attach_lookup(cookie, workload):
                repaired.append(f"link {name}")
        return repaired

    def _attach_lookup(self, cookie: int, workload: Workload) -> bool:
        """False if the namespace was replaced: the pod is then enrolled anew."""
        if workload.netns is None or not Path(workload.netns).exists():
            return False
        netns_fd = open_netns(workload.netns)
        try:
            if netns_cookie(netns_fd) != cookie:
                return False
            links.attach_lookup(self._paths, cookie, netns_fd)
        finally:
            os.close(netns_fd)
        return True

    def close(self) -> None:
        """Close our descriptors; what is pinned stays in force."""
        self._guard.close()
        self.maps.close()
