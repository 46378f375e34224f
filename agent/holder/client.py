"""The node process's way to the holder: blocking, one request at a time, with a timeout.

Every socket handed out is a copy that the caller owns; it is non-blocking.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from agent.holder.codec import format_request, parse_reply
from agent.holder.protocol import (
    MAX_ANSWER_BYTES,
    PROTOCOL_VERSION,
    Adopt,
    Answer,
    Become,
    Close,
    Family,
    HolderError,
    HolderLostError,
    ListenerName,
    Listeners,
    ListPods,
    Open,
    Ping,
    PodRecord,
    Request,
    Role,
    SocketKind,
    Vend,
)
from agent.holder.wire import Packet, receive_packet, send_packet, short_address
from agent.netns import open_netns
from agent.paths import NodePaths
from mesh.errors import RemoteProtocolError

DEFAULT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSockets:
    """A pod with copies of its listeners; the owner of this value closes them."""

    uid: str
    cookie: int
    listeners: Mapping[ListenerName, socket.socket]

    def close(self) -> None:
        """Idempotent."""
        for listener in self.listeners.values():
            listener.close()


class HolderClient:
    """One channel in the node role. Not for several threads at once.

    Every method raises `HolderError` if the holder refuses, and `HolderLostError` if it is gone
    or silent for longer than the timeout; the channel is of no use after that.
    """

    def __init__(self, channel: socket.socket, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        channel.settimeout(timeout_s)
        self._channel = channel
        self._last_id = 0

    @classmethod
    def connect(cls, paths: NodePaths, timeout_s: float = DEFAULT_TIMEOUT_S) -> HolderClient:
        """Reach the node's holder. Needs uid 0. Raises `HolderLostError` if none runs."""
        with ExitStack() as undo:
            channel = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            channel.settimeout(timeout_s)
            try:
                with short_address(paths.holder_socket) as address:
                    channel.connect(address)
            except OSError as error:
                raise HolderLostError(
                    f"no holder serves node {paths.node} ({error.strerror or error})"
                ) from error
            undo.pop_all()
        return cls(channel, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the channel; the pods stay open. Idempotent."""
        self._channel.close()

    def has_ended(self) -> bool:
        """Whether the holder is gone or closed the channel. Asks it nothing: it may also hang."""
        if self._channel.fileno() < 0:
            return True
        look = select.poll()
        # Nobody talks unasked on this channel: what can be read is its end.
        look.register(self._channel, select.POLLIN)
        return bool(look.poll(0))

    def ping(self) -> int:
        """Process id of the holder. Raises `HolderError` if it speaks another protocol."""
        answer = self._ask(Ping())
        if answer.version != PROTOCOL_VERSION:
            raise HolderError(
                f"the holder (process {answer.pid}) speaks protocol {answer.version}, this program"
                f" {PROTOCOL_VERSION}: stop it, start this version's, and adopt the listeners"
            )
        return answer.pid

    def open(self, uid: str, netns: str | int) -> PodSockets:
        """Make the pod's listeners, or return copies of those that are there.

        `netns` is a path, or a descriptor that stays the caller's. The same uid with another
        namespace replaces the pod. Raises `KernelError` if the path is gone.
        """
        return self.adopt(uid, netns, {})

    def adopt(
        self, uid: str, netns: str | int, listeners: Mapping[ListenerName, socket.socket]
    ) -> PodSockets:
        """Let the holder take over (copies of) listeners that outlived the one before it.

        Missing ones are made; if the pod is open already, nothing changes. `listeners` stay the
        caller's: with the new copies in hand they can be closed.
        """
        request = Adopt(uid=uid, listeners=tuple(listeners)) if listeners else Open(uid=uid)
        with ExitStack() as cleanup:
            if isinstance(netns, str):
                netns = open_netns(netns)
                cleanup.callback(os.close, netns)
            fds = [netns, *(sock.fileno() for sock in listeners.values())]
            return self._ask_pod(request, fds)

    def close_pod(self, uid: str) -> None:
        """Close the pod's listeners. Not an error if there are none."""
        self._ask(Close(uid=uid))

    def pods(self) -> list[PodRecord]:
        """All pods the holder serves, ordered by uid."""
        found: list[PodRecord] = []
        more = True
        while more:
            page = self._ask(ListPods(after=found[-1].uid if found else ""))
            found.extend(page.pods)
            more = page.more
        return found

    def listeners(self, uid: str) -> PodSockets:
        """Copies of an open pod's listeners."""
        return self._ask_pod(Listeners(uid=uid), [])

    def vend(self, uid: str, family: Family, kind: SocketKind, count: int) -> list[socket.socket]:
        """`count` (1 to 32) fresh sockets made in the pod's namespace."""
        packet = self._exchange(Vend(uid=uid, family=family, kind=kind, count=count), [])[1]
        return take_sockets(packet)

    def into_worker_channel(self) -> socket.socket:
        """Give up everything but a worker's rights, and return the channel for a `HolderFeed`.

        This client must not be used any more; the caller owns the socket.
        """
        self._ask(Become(role=Role.WORKER))
        channel = self._channel
        self._channel = socket.socket(fileno=os.dup(channel.fileno()))
        self._channel.close()
        return channel

    def _ask(self, request: Request) -> Answer:
        answer, packet = self._exchange(request, [])
        packet.close()
        return answer

    def _ask_pod(self, request: Request, fds: list[int]) -> PodSockets:
        answer, packet = self._exchange(request, fds)
        if len(answer.pods) != 1:
            packet.close()
            raise HolderLostError("the holder answered without the pod")
        return pod_sockets(answer.pods[0], packet)

    def _exchange(self, request: Request, fds: list[int]) -> tuple[Answer, Packet]:
        """Ask and wait for the answer; the caller owns the packet's descriptors."""
        self._last_id += 1
        try:
            send_packet(self._channel, format_request(self._last_id, request), fds)
            packet = receive_packet(self._channel, MAX_ANSWER_BYTES)
        except OSError as error:
            # After a timeout the answer may still come: the next request must not take it.
            self.close()
            raise HolderLostError(f"the holder does not answer: {error}") from error
        if packet is None:
            self.close()
            raise HolderLostError("the holder closed the channel")
        with ExitStack() as undo:
            undo.callback(packet.close)
            try:
                answer = parse_reply(packet.data)
            except RemoteProtocolError as error:
                raise HolderLostError(f"the holder's answer makes no sense: {error}") from error
            if not isinstance(answer, Answer) or answer.id not in (self._last_id, 0):
                raise HolderLostError("the holder answered something else")
            if answer.error:
                raise HolderError(answer.error)
            undo.pop_all()
        return answer, packet


def pod_sockets(record: PodRecord, packet: Packet) -> PodSockets:
    """The pod in a packet with its listeners. Raises `HolderLostError` if they do not match."""
    if len(packet.fds) != len(record.listeners):
        packet.close()
        raise HolderLostError("the holder sent other descriptors than it named")
    listeners = dict(zip(record.listeners, take_sockets(packet), strict=True))
    return PodSockets(uid=record.uid, cookie=record.cookie, listeners=listeners)


def take_vended(packet: Packet, family: Family) -> list[socket.socket]:
    """The packet's descriptors, which are fresh TCP sockets; the caller owns them.

    What they are need not be asked of the kernel: four system calls for each otherwise.
    """
    domain = socket.AF_INET6 if family is Family.V6 else socket.AF_INET
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    sockets = []
    while packet.fds:
        sockets.append(socket.socket(domain, kind, 0, packet.fds.pop()))
    return sockets


def take_sockets(packet: Packet) -> list[socket.socket]:
    """The packet's descriptors as non-blocking sockets; the caller owns them."""
    sockets = []
    while packet.fds:
        sock = socket.socket(fileno=packet.fds.pop())
        sock.setblocking(False)
        sockets.append(sock)
    sockets.reverse()
    return sockets
