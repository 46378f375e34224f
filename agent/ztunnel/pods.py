"""The pods a worker serves: their listeners come from the holder, fresh sockets too.

Listeners are shared by all workers of the node: whoever is free accepts, and a connection that
nobody has accepted yet survives the death of any worker.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping

from agent.holder.client import PodSockets
from agent.holder.feed import HolderFeed
from agent.holder.protocol import Family, HolderError, HolderLostError, ListenerName, SocketKind
from agent.ztunnel.doors import Doors
from agent.ztunnel.sockets import NoHolderError, name_to_address
from mesh.errors import UpstreamError
from mesh.model.address import SocketAddress
from mesh.model.workload import WorkloadUid

log = logging.getLogger(__name__)

ACCEPTS_PER_TURN = 64
"""Bounds how long one busy pod keeps the event loop from the others."""
ACCEPT_PAUSE_S = 1.0
ORPHAN_GRACE_S = 15.0
"""Without a holder connections wait in the backlog this long for another worker; then they are
accepted and fail, because a refused client is better off than a hanging one."""

Accepted = Callable[[WorkloadUid, socket.socket, SocketAddress], None]


class ServedPods:
    """Accepts on the listeners of every pod, and gives out sockets made in the pods.

    `paths` says who takes the connections of each kind of listener; `synced` is called once all
    pods that exist at the start are served, `lost` when no sockets can be had any more. `doors`
    accepts where the engine can do it.
    """

    def __init__(
        self,
        channel: socket.socket,
        paths: Mapping[ListenerName, Accepted],
        synced: Callable[[], None],
        lost: Callable[[], None],
        doors: Doors,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._paths = paths
        self._synced = synced
        self._lost = lost
        self._doors = doors
        self._pods: dict[WorkloadUid, PodSockets] = {}
        self._accepting = True
        self._feed = HolderFeed(channel, self, self._loop)

    # -- sockets for connections (SocketSource) -------------------------------------------------

    async def get(self, uid: WorkloadUid, family: Family, kind: SocketKind) -> socket.socket:
        """A fresh socket in the pod's namespace; raises `UpstreamError`."""
        try:
            return await self._feed.get(uid, family, kind)
        except HolderLostError as error:
            raise NoHolderError(f"no socket in the namespace of {uid}: {error}") from error
        except HolderError as error:
            raise UpstreamError(f"no socket in the namespace of {uid}: {error}") from error

    async def get_many(
        self, uid: WorkloadUid, family: Family, kind: SocketKind, count: int
    ) -> list[socket.socket]:
        """See `SocketSource`."""
        found = [await self.get(uid, family, kind)]
        while len(found) < count:
            sock = self._feed.take(uid, family, kind)
            if sock is None:
                break
            found.append(sock)
        return found

    # -- what the holder tells (HolderEvents) ---------------------------------------------------

    def pod_opened(self, pod: PodSockets) -> None:
        uid = WorkloadUid(pod.uid)
        known = self._pods.get(uid)
        if known is not None and known.cookie == pod.cookie:
            pod.close()
            return
        self.pod_closed(pod.uid)
        self._pods[uid] = pod
        if self._accepting:
            self._listen(uid, pod)

    def pod_closed(self, uid: str) -> None:
        pod = self._pods.pop(WorkloadUid(uid), None)
        if pod is not None:
            self._ignore(WorkloadUid(uid), pod)
            pod.close()
            self._doors.pod_closed(WorkloadUid(uid))

    def pods_synced(self) -> None:
        self._synced()

    def holder_lost(self, detail: str) -> None:
        log.warning("%s: connections wait for a worker with a new holder", detail)
        if self._accepting:
            self.stop_accepting()
            self._loop.call_later(ORPHAN_GRACE_S, self._resume)
        self._lost()

    # -- accepting ------------------------------------------------------------------------------

    def stop_accepting(self) -> None:
        """Leave new connections to other workers; idempotent."""
        self._accepting = False
        for uid, pod in self._pods.items():
            self._ignore(uid, pod)

    def close(self) -> None:
        """Close the copies of all listeners and the stock of sockets."""
        self.stop_accepting()
        self._feed.close()
        for pod in self._pods.values():
            pod.close()
        self._pods.clear()

    def _resume(self) -> None:
        self._accepting = True
        for uid, pod in self._pods.items():
            self._listen(uid, pod)

    def _listen(self, uid: WorkloadUid, pod: PodSockets) -> None:
        for name, listener in pod.listeners.items():
            path = self._paths.get(name)
            if path is None or self._doors.open(uid, name, listener, self._listen_again):
                continue
            self._loop.add_reader(listener, self._accept, uid, listener, path)

    def _listen_again(self, uid: WorkloadUid) -> None:
        pod = self._pods.get(uid)
        if pod is not None and self._accepting:
            self._listen(uid, pod)

    def _ignore(self, uid: WorkloadUid, pod: PodSockets) -> None:
        self._doors.close(uid)
        for listener in pod.listeners.values():
            self._loop.remove_reader(listener)

    def _accept(self, uid: WorkloadUid, listener: socket.socket, path: Accepted) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, name = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of descriptors or memory, or somebody shut the listener down (the node
                # process makes it listen again): do not spin on what stays readable.
                log.error("%s: accept failed: %s", uid, error)
                self._loop.remove_reader(listener)
                self._loop.call_later(ACCEPT_PAUSE_S, self._listen_again, uid)
                return
            sock.setblocking(False)
            path(uid, sock, name_to_address(name))
