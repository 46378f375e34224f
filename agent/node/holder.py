"""Keeps a holder running, and every pod's listeners alive across its death.

The node process keeps copies of all listeners. When the holder dies, the sockets live on in these
copies (and in the workers'); the next holder adopts them, so no port is ever unbound.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path

from agent.holder.client import HolderClient, PodSockets
from agent.holder.launch import ensure_holder
from agent.holder.protocol import HolderLostError
from agent.holder.sockets import BACKLOG
from agent.paths import NodePaths
from mesh.model.workload import WorkloadUid

log = logging.getLogger(__name__)

ASKED_EVERY = 10
"""Of so many looks at the holder one asks whether it answers, the others whether it is there."""


class HolderKeeper:
    """The node's side of the holder. Calls block briefly, on a thread, one at a time."""

    def __init__(self, paths: NodePaths, cgroup: Path) -> None:
        self._paths = paths
        self._cgroup = cgroup
        self._client: HolderClient | None = None
        self._turn = asyncio.Lock()
        self._pods: dict[WorkloadUid, tuple[str, PodSockets]] = {}
        self._revivals = 0
        self._looks = 0
        self.pid = 0

    async def ensure(self) -> bool:
        """Make sure a holder runs and has every open pod. True if another one runs than before."""
        async with self._turn:
            self._looks += 1
            if self._looks % ASKED_EVERY and self._client and not self._client.has_ended():
                return False
            return await asyncio.to_thread(self._ensure)

    async def open(self, uid: WorkloadUid, netns: str) -> PodSockets:
        """Open a pod's listeners, or find them open. The sockets stay this object's."""
        async with self._turn:
            return await asyncio.to_thread(self._open, uid, netns)

    async def close_pod(self, uid: WorkloadUid) -> None:
        """Close a pod's listeners everywhere."""
        async with self._turn:
            await asyncio.to_thread(self._close_pod, uid)

    async def known_pods(self) -> dict[WorkloadUid, int]:
        """Pods the holder has (also from an earlier agent), with their netns cookies."""
        async with self._turn:
            records = await asyncio.to_thread(self._connected().pods)
        return {WorkloadUid(r.uid): r.cookie for r in records}

    def sockets(self) -> dict[WorkloadUid, PodSockets]:
        """Our copies of all listeners."""
        return {uid: sockets for uid, (_, sockets) in self._pods.items()}

    def revive(self) -> list[str]:
        """Make listeners listen again that were shut down (SOCK_DESTROY inside the pod); what.
        Two calls look at all of them.

        All copies are of one socket, so the holder's and the workers' come back with ours.
        """
        revived = []
        # Half of the pods at a time: with hundreds of them it is work.
        self._revivals += 1
        for index, (uid, (_, sockets)) in enumerate(self._pods.items()):
            if index % 2 == self._revivals % 2:
                continue
            for name, listener in sockets.listeners.items():
                if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    listener.listen(BACKLOG)
                    revived.append(f"listener {name} of {uid}")
        return revived

    def worker_channel(self) -> int:
        """A new channel with a worker's rights, as a descriptor the caller owns. Thread-safe."""
        client = HolderClient.connect(self._paths)
        try:
            return client.into_worker_channel().detach()
        except BaseException:
            client.close()
            raise

    def close(self) -> None:
        """Drop our copies; the holder keeps its own."""
        if self._client is not None:
            self._client.close()
        for _, sockets in self._pods.values():
            sockets.close()
        self._pods.clear()

    def _ensure(self) -> bool:
        pid = ensure_holder(self._paths, cgroup=self._cgroup)
        if pid == self.pid:
            if self._client is not None and self._client.has_ended():
                self._disconnect()
            return False
        first, self.pid = self.pid == 0, pid
        self._disconnect()
        client = self._connected()
        for uid, (netns, sockets) in list(self._pods.items()):
            self._pods[uid] = (netns, client.adopt(uid, netns, sockets.listeners))
            sockets.close()
        if not first:
            log.warning("holder was gone; pid %d adopted %d pods", pid, len(self._pods))
        return not first

    def _open(self, uid: WorkloadUid, netns: str) -> PodSockets:
        sockets = self._connected().open(uid, netns)
        known = self._pods.pop(uid, None)
        if known is not None:
            known[1].close()
        self._pods[uid] = (netns, sockets)
        return sockets

    def _close_pod(self, uid: WorkloadUid) -> None:
        known = self._pods.pop(uid, None)
        if known is not None:
            known[1].close()
        with contextlib.suppress(HolderLostError):
            self._connected().close_pod(uid)

    def _connected(self) -> HolderClient:
        if self._client is None:
            self._client = HolderClient.connect(self._paths)
        return self._client

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
