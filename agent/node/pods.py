"""Takes the node's pods into the mesh and out of it, and checks that it really happened.

A pod is `pending` until its namespace is captured, `active` once a canary connection from inside
it has reached ztunnel, `failed` with a reason otherwise. Failures are tried again; a pod whose
namespace was replaced is enrolled anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agent.admin.view import PodState, PodStatus
from agent.holder.client import PodSockets
from agent.node.canary import Canary
from agent.node.holder import HolderKeeper
from mesh.errors import MeshnodeError
from mesh.model.workload import Workload, WorkloadUid

log = logging.getLogger(__name__)

RETRY_S = 2.0
NetnsId = tuple[int, int]


class PodCapture(Protocol):
    """The kernel's part of enrolment; `KernelPlane` in practice."""

    def enrol(self, workload: Workload, netns: str, sockets: PodSockets) -> None: ...
    def leave(self, uid: WorkloadUid) -> None: ...


@dataclass(slots=True)
class LocalPod:
    """One pod of this node, as far as it has come."""

    workload: Workload
    state: PodState = PodState.PENDING
    reason: str = "not enrolled yet"
    cookie: int = 0
    netns_id: NetnsId | None = None
    since: float = field(default_factory=time.time)

    def become(self, state: PodState, reason: str = "") -> None:
        if (state, reason) != (self.state, self.reason):
            level = logging.WARNING if state is PodState.FAILED else logging.INFO
            log.log(level, "%s is %s%s", self.workload.uid, state, f": {reason}" if reason else "")
            self.state, self.reason, self.since = state, reason, time.time()


class LocalPods:
    """All pods of the node that are to be in the mesh."""

    def __init__(
        self,
        holder: HolderKeeper,
        capture: PodCapture,
        canary: Canary,
        on_change: Callable[[], None],
    ) -> None:
        self._holder = holder
        self._capture = capture
        self._canary = canary
        self._on_change = on_change
        self._wanted: Mapping[WorkloadUid, Workload] = {}
        self._pods: dict[WorkloadUid, LocalPod] = {}
        self._wake = asyncio.Event()
        self.settled = asyncio.Event()
        """Set once every wanted pod was tried."""

    def want(self, workloads: Iterable[Workload]) -> None:
        """Replace the set of pods that are to be in the mesh."""
        self._wanted = {w.uid: w for w in workloads}
        self._wake.set()

    def recall(self, cookies: Mapping[WorkloadUid, int]) -> None:
        """Take over what an earlier agent captured, so that nothing is let go in between."""
        for uid, cookie in cookies.items():
            workload = self._wanted.get(uid)
            if workload is not None:
                self._pods[uid] = LocalPod(workload, cookie=cookie)

    def cookies(self) -> dict[WorkloadUid, int]:
        """Captured pods, with the cookies of their namespaces."""
        return {uid: pod.cookie for uid, pod in self._pods.items() if pod.cookie}

    def netns_path(self, uid: WorkloadUid) -> str | None:
        pod = self._pods.get(uid)
        return pod.workload.netns if pod is not None else None

    def progress(self, uid: WorkloadUid, netns_id: NetnsId | None) -> tuple[PodState, str]:
        """How far one pod has come, in this namespace and no other; with the reason."""
        pod = self._pods.get(uid)
        if pod is None:
            return PodState.PENDING, "not enrolled yet"
        if pod.state is PodState.ACTIVE and (netns_id is None or pod.netns_id != netns_id):
            return PodState.PENDING, "its network namespace was replaced"
        return pod.state, pod.reason

    def statuses(self) -> list[PodStatus]:
        """Every pod, for people."""
        return [
            PodStatus(
                uid=uid,
                namespace=pod.workload.namespace,
                name=pod.workload.name,
                state=pod.state,
                reason=pod.reason,
                identity=pod.workload.identity.principal,
                cookie=str(pod.cookie or ""),
                since=pod.since,
                addresses=tuple(map(str, pod.workload.addresses)),
            )
            for uid, pod in sorted(self._pods.items())
        ]

    async def run(self) -> None:
        """Keep the pods as wanted until cancelled."""
        await self._wake.wait()
        for uid in set(await self._holder.known_pods()) - set(self._wanted):
            await self._holder.close_pod(uid)
        while True:
            self._wake.clear()
            await self._reconcile()
            self.settled.set()
            try:
                async with asyncio.timeout(RETRY_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _reconcile(self) -> None:
        for uid in [uid for uid in self._pods if uid not in self._wanted]:
            await self._leave(uid)
        for uid, workload in list(self._wanted.items()):
            pod = self._pods.setdefault(uid, LocalPod(workload))
            pod.workload = workload
            try:
                await self._advance(pod)
            except (MeshnodeError, OSError) as error:
                pod.become(PodState.FAILED, str(error))

    async def _advance(self, pod: LocalPod) -> None:
        """Bring one pod a step nearer to active."""
        netns = pod.workload.netns
        if netns is None:
            pod.become(PodState.FAILED, "its network namespace is not known")
            return
        present = _netns_id(netns)
        if pod.netns_id is not None and present != pod.netns_id:
            await self._leave(pod.workload.uid, forget=False)
            pod.become(PodState.PENDING, "its network namespace was replaced")
        if present is None:
            pod.become(PodState.FAILED, f"its network namespace {netns} does not exist")
            return
        if pod.netns_id is None:
            await self._enrol(pod, netns, present)
        if pod.state is not PodState.ACTIVE:
            complaint = await self._canary.verify(netns, pod.workload.addresses)
            pod.become(PodState.FAILED if complaint else PodState.ACTIVE, complaint)

    async def _enrol(self, pod: LocalPod, netns: str, netns_id: NetnsId) -> None:
        sockets = await self._holder.open(pod.workload.uid, netns)
        pod.cookie = sockets.cookie
        try:
            self._on_change()
            self._capture.enrol(pod.workload, netns, sockets)
        except BaseException:
            pod.cookie = 0
            raise
        pod.netns_id = netns_id

    async def _leave(self, uid: WorkloadUid, *, forget: bool = True) -> None:
        pod = self._pods.get(uid)
        self._capture.leave(uid)
        if pod is not None:
            pod.cookie, pod.netns_id = 0, None
        if forget:
            self._pods.pop(uid, None)
            log.info("%s left the mesh", uid)
        self._on_change()
        await self._holder.close_pod(uid)


def _netns_id(path: str) -> NetnsId | None:
    """Device and inode of a namespace: the path may come to mean another one."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
