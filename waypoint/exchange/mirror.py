"""Copies of requests whose answers nobody reads.

A copy must cost the request nothing: what its server does not take soon enough is dropped, and so
are copies beyond a number at once. Copies take no part in retries, limits and records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from mesh.errors import LocalProtocolError
from mesh.http1.message import Framing, Headers, RequestHead, ResponseHead
from waypoint.contract import Failure, UpstreamStream
from waypoint.routing.plan import Cancellable
from waypoint.upstream.pool import Pool
from waypoint.upstream.target import Speaks, Target

MAX_HELD_BYTES = 256 * 1024
"""Of a body that waits for a copy's server; a slower one is left out."""
ANSWER_S = 15.0
"""For the whole of a copy that was sent: long enough to be counted, short enough to end."""


class _Copy:
    """`Taker` of one copy."""

    def __init__(self, owner: Mirrors, head: RequestHead) -> None:
        self._owner = owner
        self.head = replace(head, headers=list(head.headers))
        self.pending: Cancellable | None = None
        self._stream: UpstreamStream | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._blocked = False
        self._over: Headers | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.dead = False

    # --- the request ----------------------------------------------------------------------------

    def body(self, data: bytes) -> None:
        if self.dead:
            return
        self._held.append(data)
        self._held_bytes += len(data)
        self._pass_on()
        if self._held_bytes > MAX_HELD_BYTES:
            self.cancel()

    def end(self, trailers: Headers) -> None:
        if not self.dead:
            self._over = trailers
            self._timer = self._owner.later(ANSWER_S, self.cancel)
            self._pass_on()

    def cancel(self) -> None:
        """Give up, wherever it stands. Idempotent."""
        if self.dead:
            return
        pending, stream = self.pending, self._stream
        self._finish()
        if pending is not None:
            pending.cancel()
        if stream is not None:
            stream.cancel()

    def _pass_on(self) -> None:
        stream = self._stream
        if stream is None or self._blocked:
            return
        held, self._held, self._held_bytes = self._held, [], 0
        for piece in held:
            stream.send_body(piece)
        if self._over is not None and self.head.framing is not Framing.NONE:
            stream.send_end(self._over)
        stream.flush()

    def _finish(self) -> None:
        if self.dead:
            return
        self.dead = True
        self._held, self._held_bytes = [], 0
        self.pending = self._stream = None
        if self._timer is not None:
            self._timer.cancel()
        self._owner.ended(self)

    # --- waypoint.upstream.pool.Taker -----------------------------------------------------------

    def connected(self, stream: UpstreamStream) -> None:
        self.pending = None
        self._stream = stream
        self._pass_on()

    def flush_request(self) -> None:
        if self._stream is not None:
            self._stream.flush()

    def unsendable(self, error: LocalProtocolError) -> None:
        self._finish()

    def upstream_failed(self, failure: Failure) -> None:
        self._finish()

    def upstream_blocked(self, blocked: bool) -> None:
        self._blocked = blocked
        if not self.dead:
            self._pass_on()

    def response_end(self, trailers: Headers) -> None:
        self._finish()

    def informed(self, head: ResponseHead) -> None: ...
    def responded(self, head: ResponseHead) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def flush_response(self) -> None: ...


class Copies:
    """All copies of one request."""

    __slots__ = ("_copies",)

    def __init__(self, copies: Sequence[_Copy]) -> None:
        self._copies = copies

    def body(self, data: bytes) -> None:
        for copy in self._copies:
            copy.body(data)

    def end(self, trailers: Headers) -> None:
        for copy in self._copies:
            copy.end(trailers)

    def cut(self) -> None:
        """The request ended before its body did: half a copy is of no use."""
        for copy in self._copies:
            copy.cancel()


class Mirrors:
    """The copies of one worker.

    Args:
        at_once: how many may be under way: a mirror that hangs must not use up descriptors.

    Attributes:
        dropped: copies that were not begun.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool, at_once: int) -> None:
        self._loop = loop
        self._pool = pool
        self._at_once = at_once
        self._active: set[_Copy] = set()
        self.dropped = 0

    @property
    def active(self) -> int:
        """Copies under way."""
        return len(self._active)

    def cancel_all(self) -> None:
        """Give every copy up."""
        for copy in list(self._active):
            copy.cancel()

    def start(self, targets: Sequence[tuple[Target, Speaks]], head: RequestHead) -> Copies | None:
        """Begin a copy to each; of a request that switches protocols there is none."""
        if head.upgrade:
            return None
        copies = []
        for target, speaks in targets:
            if len(self._active) >= self._at_once:
                self.dropped += 1
                continue
            copy = _Copy(self, head)
            self._active.add(copy)
            pending = self._pool.start(target, speaks, copy.head, copy)
            if not copy.dead:
                copy.pending = pending
            copies.append(copy)
        return Copies(copies) if copies else None

    def later(self, delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay_s, call)

    def ended(self, copy: _Copy) -> None:
        self._active.discard(copy)
