"""Take a pod's namespace into the mesh, and let it go, without a gap in either direction.

Order in: listeners are there (given) -> socket hash -> inbound steering -> outbound capture; out in
reverse. A failure half-way leaves the earlier steps in force: inbound stays with ztunnel, which is
the safe side, and the same call can simply be made again.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.capture import links
from agent.capture.desired import PodEntry
from agent.capture.maps import decode_cookie, encode_cookie, encode_pod
from agent.capture.pins import PinnedMaps
from agent.paths import NodePaths
from bpf.layout import pack_ip
from mesh.errors import KernelError
from mesh.model.address import IPAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class PodCapture:
    """What is needed to capture one pod.

    Attributes:
        netns_fd: its namespace, open; stays the caller's.
        plaintext: listener for captured inbound connections (port 15006) by address, made inside
            the namespace and listening; stays the caller's (the holder's) for as long as the pod
            is captured: closing it makes inbound connections be dropped.
        entry: from `KernelState.pods`.
    """

    netns_cookie: int
    netns_fd: int
    plaintext: Mapping[IPAddress, socket.socket]
    entry: PodEntry


class Enrolment:
    """Enrols pods of one node. `reconcile` must have written the pod's addresses before."""

    def __init__(self, paths: NodePaths, maps: PinnedMaps) -> None:
        self._paths = paths
        self._maps = maps

    def enrol(self, pod: PodCapture) -> None:
        """Capture a pod; repeating it renews listeners and link. Raises `KernelError`."""
        if not pod.plaintext:
            raise KernelError("enrolment", hint="A pod without an address cannot be captured.")
        for address, listener in pod.plaintext.items():
            self.set_listener(address, listener)
        links.attach_lookup(self._paths, pod.netns_cookie, pod.netns_fd)
        self._maps["mn_enrolled"].update(encode_cookie(pod.netns_cookie), encode_pod(pod.entry))

    def leave(self, netns_cookie: int, addresses: Iterable[IPAddress]) -> None:
        """Let a pod go; harmless if it is not captured."""
        self._maps["mn_enrolled"].delete(encode_cookie(netns_cookie))
        links.detach_lookup(self._paths, netns_cookie)
        for address in addresses:
            self._maps["mn_listener"].delete(pack_ip(address))

    def set_listener(self, address: IPAddress, listener: socket.socket) -> None:
        """Steer inbound connections of an address to another listener."""
        self._maps["mn_listener"].update(pack_ip(address), struct.pack("=Q", listener.fileno()))

    def restore(
        self,
        netns_cookie: int,
        entry: PodEntry,
        addresses: Iterable[IPAddress],
        listener: socket.socket,
    ) -> list[str]:
        """Write what is missing of a captured pod's entries; says what that was."""
        restored = []
        for address in addresses:
            if self._maps["mn_listener"].lookup(pack_ip(address)) is None:
                self.set_listener(address, listener)
                restored.append(f"listener for {address}")
        key = encode_cookie(netns_cookie)
        if self._maps["mn_enrolled"].lookup(key) is None:
            self._maps["mn_enrolled"].update(key, encode_pod(entry))
            restored.append("capture")
        return restored

    def enrolled(self) -> set[int]:
        """Netns cookies that are captured now."""
        return {decode_cookie(key) for key in self._maps["mn_enrolled"].keys()}  # noqa: SIM118
