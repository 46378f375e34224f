"""The holder's loop: serve channels, and refuse connections while no worker is there."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable
from contextlib import ExitStack

from agent.holder.channel import Channel, ChannelLostError
from agent.holder.codec import format_answer, format_event, parse_request
from agent.holder.orphans import OrphanRule
from agent.holder.pods import Pod, PodTable, namespace_cookie
from agent.holder.protocol import (
    PROTOCOL_VERSION,
    WORKER_MAY,
    Adopt,
    Answer,
    Become,
    Close,
    Event,
    EventKind,
    HolderError,
    Listeners,
    ListPods,
    Malformed,
    Open,
    Ping,
    Request,
    Role,
    Vend,
    Watch,
)
from agent.holder.refusal import Refusal
from agent.holder.wire import Packet, peer_uid
from mesh.errors import KernelError, MeshnodeError

MAX_CHANNELS = 256


class HolderServer:
    """Serves one listening control socket until told to stop. Owns channels and pods."""

    def __init__(
        self,
        control: socket.socket,
        *,
        grace_s: float,
        clock: Callable[[], float],
        log: Callable[[str], None],
    ) -> None:
        control.setblocking(False)
        self._control = control
        self._clock = clock
        self._log = log
        self._pods = PodTable()
        self._channels: set[Channel] = set()
        self._orphans = OrphanRule(grace_s, clock())
        self._selector = selectors.EpollSelector()
        self._refusal = Refusal(self._selector)
        self._selector.register(control, selectors.EVENT_READ, self._accept)

    def run(self, stop_fd: int) -> None:
        """Serve until `stop_fd` is readable, then close everything but the control socket."""
        stopping = False

        def stop() -> None:
            nonlocal stopping
            stopping = True

        self._selector.register(stop_fd, selectors.EVENT_READ, stop)
        with ExitStack() as cleanup:
            cleanup.callback(self._selector.close)
            cleanup.callback(self._pods.close_all)
            cleanup.callback(self._close_channels)
            while not stopping:
                self._turn()

    def _turn(self) -> None:
        now = self._clock()
        deadline = self._orphans.deadline(now)
        timeout = None if deadline is None else max(0.0, deadline - now)
        for key, _ in self._selector.select(timeout):
            key.data()
        self._apply_orphan_rule()

    # Channels

    def _accept(self) -> None:
        try:
            sock, _ = self._control.accept()
        except OSError as error:
            self._log(f"a client could not be accepted: {error}")
            return
        if peer_uid(sock) != 0 or len(self._channels) >= MAX_CHANNELS:
            self._log(f"refused a channel of uid {peer_uid(sock)}")
            sock.close()
            return
        channel = Channel(sock)
        self._channels.add(channel)
        self._selector.register(
            channel, selectors.EVENT_READ, lambda: self._channel_is_ready(channel)
        )

    def _channel_is_ready(self, channel: Channel) -> None:
        if channel.is_closed:
            return  # dropped earlier in this turn
        try:
            if channel.has_waiting:
                channel.flush()
            else:
                self._receive(channel)
        except ChannelLostError as error:
            self._drop(channel, str(error))
        self._set_interest(channel)

    def _set_interest(self, channel: Channel) -> None:
        """Read no request of a client that leaves answers unread."""
        if channel.is_closed:
            return
        wanted = selectors.EVENT_WRITE if channel.has_waiting else selectors.EVENT_READ
        key = self._selector.get_key(channel)
        if key.events != wanted:
            self._selector.modify(channel, wanted, key.data)

    def _receive(self, channel: Channel) -> None:
        try:
            packet = channel.receive()
        except BlockingIOError:
            return
        if packet is None:
            self._drop(channel, "closed by its client")
            return
        try:
            self._answer(channel, packet)
        finally:
            packet.close()

    def _drop(self, channel: Channel, why: str) -> None:
        if channel.is_closed:
            return
        if channel.role is Role.WORKER:
            self._orphans.worker_left(self._clock())
            self._log(f"a worker's channel ended: {why}")
        self._selector.unregister(channel)
        self._channels.discard(channel)
        channel.close()

    def _close_channels(self) -> None:
        for channel in self._channels:
            channel.close()

    # Requests

    def _answer(self, channel: Channel, packet: Packet) -> None:
        request_id, request = parse_request(packet.data)
        try:
            if packet.truncated:
                raise HolderError("the packet, or its number of descriptors, is too large")
            if isinstance(request, Malformed):
                raise HolderError(request.complaint)
            if channel.role is Role.WORKER and not isinstance(request, WORKER_MAY):
                raise HolderError(f"a worker may not ask to {type(request).__name__.lower()}")
            self._serve(channel, request_id, request, packet)
        except ChannelLostError:
            raise
        except MeshnodeError as error:
            channel.send(format_answer(Answer(id=request_id, error=str(error))))
        except Exception as error:
            # With this process every listener of the node would go: no descriptors, no memory
            # and no defect of ours in one request is worth that.
            self._log(f"{type(request).__name__} failed: {error!r}")
            channel.send(format_answer(Answer(id=request_id, error=f"in the holder: {error!r}")))

    def _serve(
        self,
        channel: Channel,
        request_id: int,
        request: Request,
        packet: Packet,
    ) -> None:
        match request:
            case Ping():
                answer = Answer(id=request_id, pid=os.getpid(), version=PROTOCOL_VERSION)
                channel.send(format_answer(answer))
            case Become(role=role):
                self._become(channel, role)
                channel.send(format_answer(Answer(id=request_id)))
            case Open() | Adopt():
                self._send_pod(channel, request_id, self._open(request, packet))
            case Close(uid=uid):
                self._close(uid)
                channel.send(format_answer(Answer(id=request_id)))
            case ListPods(after=after):
                pods, more = self._pods.page(after)
                records = tuple(pod.record for pod in pods)
                channel.send(format_answer(Answer(id=request_id, pods=records, more=more)))
            case Listeners(uid=uid):
                self._send_pod(channel, request_id, self._pods.get(uid))
            case Vend():
                self._vend(channel, request_id, request)
            case Watch():
                self._watch(channel, request_id)

    def _become(self, channel: Channel, role: Role) -> None:
        if role is Role.WORKER and channel.role is not Role.WORKER:
            channel.role = role
            self._orphans.worker_joined()

    def _send_pod(self, channel: Channel, request_id: int, pod: Pod) -> None:
        answer = Answer(id=request_id, pods=(pod.record,))
        channel.send(format_answer(answer), pod.listener_fds)

    def _open(self, request: Open | Adopt, packet: Packet) -> Pod:
        names = request.listeners if isinstance(request, Adopt) else ()
        if len(packet.fds) != 1 + len(names):
            raise HolderError(f"expected {1 + len(names)} descriptors, got {len(packet.fds)}")
        cookie = namespace_cookie(packet.fds[0])
        if self._pods.has(request.uid, cookie):
            return self._pods.get(request.uid)
        adopted = dict(zip(names, _take_sockets(packet, len(names)), strict=True))
        self._refusal.stop()
        pod = self._pods.open(request.uid, packet.fds.pop(), cookie, adopted)
        self._log(f"pod {pod.uid} open, cookie {cookie}, listeners {', '.join(pod.listeners)}")
        self._tell(Event(kind=EventKind.OPENED, pod=pod.record), pod)
        return pod

    def _close(self, uid: str) -> None:
        self._refusal.stop()
        try:
            self._pods.drop_rules(uid)
        except KernelError as error:
            self._log(f"pod {uid} keeps a rule of ours: {error}")
        record = self._pods.close(uid)
        if record is not None:
            self._log(f"pod {uid} closed")
            self._tell(Event(kind=EventKind.CLOSED, pod=record))

    def _vend(self, channel: Channel, request_id: int, request: Vend) -> None:
        sockets = self._pods.get(request.uid).vend(request.family, request.kind, request.count)
        try:
            channel.send(format_answer(Answer(id=request_id)), [sock.fileno() for sock in sockets])
        finally:
            for sock in sockets:
                sock.close()

    def _apply_orphan_rule(self) -> None:
        orphaned = self._orphans.is_orphaned(self._clock())
        if orphaned and not self._refusal.is_active:
            self._refusal.start(sock for pod in self._pods for sock in pod.listeners.values())
        elif not orphaned and self._refusal.is_active:
            self._refusal.stop()

    def _watch(self, channel: Channel, request_id: int) -> None:
        channel.send(format_answer(Answer(id=request_id)))
        for pod in self._pods:
            opened = Event(kind=EventKind.OPENED, pod=pod.record)
            channel.send(format_event(opened), pod.listener_fds)
        channel.send(format_event(Event(kind=EventKind.SYNCED)))
        channel.watching = True

    def _tell(self, event: Event, pod: Pod | None = None) -> None:
        for channel in tuple(self._channels):
            if not channel.watching:
                continue
            try:
                channel.send(format_event(event), pod.listener_fds if pod else ())
            except ChannelLostError as error:
                self._drop(channel, str(error))
            self._set_interest(channel)


def _take_sockets(packet: Packet, count: int) -> list[socket.socket]:
    """The packet's last `count` descriptors as sockets. Raises `HolderError` and closes them."""
    with ExitStack() as undo:
        taken: list[socket.socket] = []
        for _ in range(count):
            fd = packet.fds.pop()
            try:
                taken.append(undo.enter_context(socket.socket(fileno=fd)))
            except OSError as error:
                os.close(fd)
                raise HolderError("a descriptor is not a socket") from error
        undo.pop_all()
    taken.reverse()
    return taken
