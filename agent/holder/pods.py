"""The pods a holder serves: their namespaces and listeners."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from fcntl import ioctl

from agent.holder.protocol import (
    LIST_PAGE,
    Family,
    HolderError,
    ListenerName,
    PodRecord,
    SocketKind,
)
from agent.holder.rules import add_rule, delete_rule
from agent.holder.sockets import check_adopted, make_sockets, open_listener
from agent.netns import CLONE_NEWNET, call_in_netns, netns_cookie
from mesh.errors import KernelError

NS_GET_NSTYPE = 0xB703
"""linux/nsfs.h, since 4.11."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod. Owns its listeners and a namespace descriptor, which keeps the namespace alive.

    Attributes:
        ruled: families whose rule for ztunnel's packets was made in the namespace.
    """

    uid: str
    cookie: int
    netns_fd: int
    listeners: Mapping[ListenerName, socket.socket]
    ruled: set[Family] = field(default_factory=set)

    @property
    def record(self) -> PodRecord:
        return PodRecord(uid=self.uid, cookie=self.cookie, listeners=tuple(self.listeners))

    @property
    def listener_fds(self) -> list[int]:
        """In the order of `record.listeners`."""
        return [listener.fileno() for listener in self.listeners.values()]

    def vend(self, family: Family, kind: SocketKind, count: int) -> list[socket.socket]:
        """Make fresh sockets in the pod's namespace. Raises `KernelError`."""
        try:
            return call_in_netns(self.netns_fd, lambda: self._make(family, kind, count))
        except OSError as error:
            raise KernelError(f"socket for {self.uid}", error.errno or 0) from error

    def _make(self, family: Family, kind: SocketKind, count: int) -> list[socket.socket]:
        """In the pod's namespace. Without its rule the answers of the application leave the pod."""
        if kind is SocketKind.INBOUND and family not in self.ruled:
            add_rule(family)
            self.ruled.add(family)
        return make_sockets(family, kind, count)

    def drop_rules(self) -> None:
        """Route as if ztunnel had never spoken to the application. Raises `KernelError`."""
        if self.ruled:
            call_in_netns(self.netns_fd, self._drop_rules)

    def _drop_rules(self) -> None:
        while self.ruled:
            delete_rule(self.ruled.pop())

    def close(self) -> None:
        for listener in self.listeners.values():
            listener.close()
        os.close(self.netns_fd)


class PodTable:
    """All pods by uid."""

    def __init__(self) -> None:
        self._pods: dict[str, Pod] = {}

    def __iter__(self) -> Iterator[Pod]:
        return iter(tuple(self._pods.values()))

    def get(self, uid: str) -> Pod:
        """Raises `HolderError` if there is none."""
        try:
            return self._pods[uid]
        except KeyError:
            raise HolderError(f"no pod {uid!r} is open") from None

    def page(self, after: str) -> tuple[list[Pod], bool]:
        """At most `LIST_PAGE` pods above `after` in order, and whether there are more."""
        uids = sorted(uid for uid in self._pods if uid > after)
        return [self._pods[uid] for uid in uids[:LIST_PAGE]], len(uids) > LIST_PAGE

    def has(self, uid: str, cookie: int) -> bool:
        pod = self._pods.get(uid)
        return pod is not None and pod.cookie == cookie

    def open(
        self, uid: str, netns_fd: int, cookie: int, adopted: Mapping[ListenerName, socket.socket]
    ) -> Pod:
        """Open a pod, keep `adopted`, make the other listeners; replaces another namespace.

        Owns `netns_fd` and `adopted` from the call on, also if it raises `KernelError`. What was
        there before stays if the new one cannot be made.
        """
        with ExitStack() as undo:
            undo.callback(os.close, netns_fd)
            for name, sock in adopted.items():
                undo.enter_context(sock)
                check_adopted(name, sock, cookie)
            listeners = call_in_netns(netns_fd, lambda: _complete(adopted))
            undo.pop_all()
        pod = Pod(uid=uid, cookie=cookie, netns_fd=netns_fd, listeners=listeners)
        self.close(uid)
        self._pods[uid] = pod
        return pod

    def drop_rules(self, uid: str) -> None:
        """For a pod that leaves the mesh: not when this process ends, as its connections go on.

        Raises `KernelError`. Harmless if there is no such pod.
        """
        pod = self._pods.get(uid)
        if pod is not None:
            pod.drop_rules()

    def close(self, uid: str) -> PodRecord | None:
        """Close a pod and return what it was; None if there is none."""
        pod = self._pods.pop(uid, None)
        if pod is None:
            return None
        pod.close()
        return pod.record

    def close_all(self) -> None:
        for uid in tuple(self._pods):
            self.close(uid)


def _complete(adopted: Mapping[ListenerName, socket.socket]) -> dict[ListenerName, socket.socket]:
    """`adopted` and a fresh listener for every other name, in the order of the names."""
    listeners: dict[ListenerName, socket.socket] = {}
    with ExitStack() as undo:
        for name in ListenerName:
            sock = adopted.get(name)
            if sock is None:
                sock = open_listener(name)
                if sock is None:
                    continue
                undo.enter_context(sock)
            listeners[name] = sock
        undo.pop_all()
    return listeners


def namespace_cookie(netns_fd: int) -> int:
    """The cookie of the namespace behind a descriptor a client sent. Raises `KernelError`."""
    try:
        kind = ioctl(netns_fd, NS_GET_NSTYPE)
    except OSError as error:
        raise KernelError(
            "namespace descriptor", error.errno or 0, "It is not a network namespace."
        ) from error
    if kind != CLONE_NEWNET:
        raise KernelError("namespace descriptor", 0, "It is not a network namespace.")
    return netns_cookie(netns_fd)
