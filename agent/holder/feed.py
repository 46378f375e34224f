"""A worker's way to the holder, on its event loop: listeners come in, sockets are in stock.

Works with asyncio and uvloop through `add_reader` and `add_writer`. Nothing here blocks.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from agent.holder.client import PodSockets, pod_sockets, take_vended
from agent.holder.codec import format_request, parse_reply
from agent.holder.protocol import (
    MAX_REQUEST_BYTES,
    Answer,
    Event,
    EventKind,
    Family,
    HolderError,
    HolderLostError,
    Request,
    SocketKind,
    Vend,
    Watch,
)
from agent.holder.stash import Stash, StashKey
from agent.holder.wire import Packet, receive_packet, send_packet
from mesh.errors import RemoteProtocolError

TICK_S = 5.0
"""After six idle ticks (30 s) a pod that was as busy as can be holds no socket."""

PACKETS_PER_TURN = 16


class HolderEvents(Protocol):
    """What a worker is told, on its event loop."""

    def pod_opened(self, pod: PodSockets) -> None:
        """A pod is there, or has another namespace (another cookie); `pod` is the worker's now.

        After a new feed every pod is reported again: with a known uid and cookie, close `pod`.
        """

    def pod_closed(self, uid: str) -> None:
        """A pod is gone: close its listeners."""

    def pods_synced(self) -> None:
        """All pods that were open when the feed started have been reported."""

    def holder_lost(self, detail: str) -> None:
        """The channel ended; keep serving what there is, and wait for a new one. Last event."""


@dataclass(frozen=True, slots=True)
class _Order:
    key: StashKey
    count: int


class HolderFeed:
    """One worker channel. Owns it and the sockets in stock."""

    def __init__(
        self, channel: socket.socket, events: HolderEvents, loop: asyncio.AbstractEventLoop
    ) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._events = events
        self._loop = loop
        self._stash: Stash[socket.socket] = Stash()
        self._waiters: dict[StashKey, deque[asyncio.Future[socket.socket]]] = {}
        self._orders: dict[int, _Order] = {}
        self._unsent: deque[bytes] = deque()
        self._last_id = 0
        self._is_open = True
        loop.add_reader(channel, self._on_readable)
        self._timer = loop.call_later(TICK_S, self._on_tick)
        self._request(Watch())

    @property
    def stocked(self) -> int:
        """Sockets in stock, of all pods."""
        return len(self._stash)

    def take(self, uid: str, family: Family, kind: SocketKind) -> socket.socket | None:
        """A fresh socket of the pod's namespace at once, or None if there is none in stock.

        Orders more in the background; the caller owns the socket.
        """
        key = StashKey(uid, family, kind)
        sock = self._take(key)
        self._order(key)
        return sock

    def _take(self, key: StashKey) -> socket.socket | None:
        """From the stock, unless somebody waits already, who came first."""
        return None if self._waiters.get(key) else self._stash.take(key)

    async def get(self, uid: str, family: Family, kind: SocketKind) -> socket.socket:
        """Like `take`, but wait for the holder if the stock is empty. Cancel-safe.

        Raises `HolderError` if the pod is gone, `HolderLostError` if the holder is.
        """
        if not self._is_open:
            raise HolderLostError("the holder is gone")
        key = StashKey(uid, family, kind)
        sock = self._take(key)
        if sock is not None:
            self._order(key)
            return sock
        waiter: asyncio.Future[socket.socket] = self._loop.create_future()
        self._waiters.setdefault(key, deque()).append(waiter)
        self._stash.wait(key)
        self._order(key)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._give_up(key, waiter)
            raise

    def _give_up(self, key: StashKey, waiter: asyncio.Future[socket.socket]) -> None:
        waiters = self._waiters.get(key, deque())
        if waiter in waiters:
            waiters.remove(waiter)
            self._stash.stop_waiting(key)
        elif not waiter.cancelled() and waiter.exception() is None:
            waiter.result().close()  # served and cancelled in the same turn of the loop

    def close(self) -> None:
        """End the channel and close the stock; waiters fail. Idempotent."""
        if not self._is_open:
            return
        self._is_open = False
        self._timer.cancel()
        self._loop.remove_reader(self._channel)
        self._loop.remove_writer(self._channel)
        self._channel.close()
        self._discard(self._stash.clear())
        for key in tuple(self._waiters):
            self._fail_waiters(key, HolderLostError("the holder is gone"))

    # Sending

    def _order(self, key: StashKey) -> None:
        if not self._is_open:
            return
        count = self._stash.to_request(key)
        if count:
            request = Vend(uid=key.uid, family=key.family, kind=key.kind, count=count)
            self._orders[self._request(request)] = _Order(key, count)

    def _request(self, request: Request) -> int:
        self._last_id += 1
        self._unsent.append(format_request(self._last_id, request))
        if len(self._unsent) == 1:
            self._flush()
        return self._last_id

    def _flush(self) -> None:
        try:
            while self._unsent:
                send_packet(self._channel, self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            self._loop.add_writer(self._channel, self._flush)
            return
        except OSError:
            # The reader meets the end of the channel too and reports it, from the loop.
            self._unsent.clear()
        self._loop.remove_writer(self._channel)

    # Receiving

    def _on_readable(self) -> None:
        try:
            for _ in range(PACKETS_PER_TURN):
                packet = receive_packet(self._channel, MAX_REQUEST_BYTES)
                if packet is None:
                    self._lose("the holder closed the channel")
                    return
                self._on_packet(packet)
                if not self._is_open:
                    return
        except BlockingIOError:
            return
        except (OSError, RemoteProtocolError, HolderError) as error:
            self._lose(str(error))

    def _lose(self, detail: str) -> None:
        if self._is_open:
            self.close()
            self._events.holder_lost(detail)

    def _on_packet(self, packet: Packet) -> None:
        try:
            match parse_reply(packet.data):
                case Answer() as answer:
                    self._on_answer(answer, packet)
                case Event() as event:
                    self._on_event(event, packet)
        finally:
            packet.close()

    def _on_event(self, event: Event, packet: Packet) -> None:
        pod = event.pod
        if pod is None:
            self._events.pods_synced()
            return
        if event.kind is EventKind.OPENED:
            # Answers come in order: what is still on its way is of the new namespace.
            self._discard(self._stash.drain(pod.uid))
            self._events.pod_opened(pod_sockets(pod, packet))
        else:
            self._discard(self._stash.forget(pod.uid))
            self._fail_pod(pod.uid)
            self._events.pod_closed(pod.uid)

    def _on_answer(self, answer: Answer, packet: Packet) -> None:
        order = self._orders.pop(answer.id, None)
        if order is None:
            if answer.error:
                raise HolderError(answer.error)
            return
        surplus = self._stash.delivered(
            order.key, order.count, take_vended(packet, order.key.family)
        )
        self._discard(surplus)
        if answer.error:
            # No new order before the next connection asks: it would only fail again.
            self._fail_waiters(order.key, HolderError(answer.error))
        else:
            self._serve_waiters(order.key)

    def _serve_waiters(self, key: StashKey) -> None:
        waiters = self._waiters.get(key)
        while waiters:
            if not waiters[0].done():
                sock = self._stash.take(key)
                if sock is None:
                    break
                waiters[0].set_result(sock)
            waiters.popleft()
            self._stash.stop_waiting(key)
        if not waiters:
            self._waiters.pop(key, None)
        self._order(key)

    def _fail_pod(self, uid: str) -> None:
        for key in [key for key in self._waiters if key.uid == uid]:
            self._fail_waiters(key, HolderError(f"pod {uid!r} was closed"))

    def _fail_waiters(self, key: StashKey, error: HolderError) -> None:
        for waiter in self._waiters.pop(key, ()):
            self._stash.stop_waiting(key)
            if not waiter.done():
                waiter.set_exception(error)

    def _on_tick(self) -> None:
        self._discard(self._stash.tick())
        self._timer = self._loop.call_later(TICK_S, self._on_tick)

    @staticmethod
    def _discard(sockets: list[socket.socket]) -> None:
        for sock in sockets:
            sock.close()
