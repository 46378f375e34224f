"""One request of the waypoint's own, and its whole answer in memory, bounded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from mesh.errors import LocalProtocolError, UpstreamError
from mesh.http1.message import Headers, RequestHead, ResponseHead
from waypoint.contract import Failure, FailureKind, UpstreamStream
from waypoint.routing.plan import Cancellable
from waypoint.upstream.pool import Pool
from waypoint.upstream.target import Speaks, Target

_AGAIN = frozenset((FailureKind.NEVER_SENT, FailureKind.NO_ANSWER_REUSED))
_TRIES = 2


@dataclass(slots=True, kw_only=True)
class Whole:
    """A complete answer."""

    status: int
    headers: Headers
    body: bytes = b""
    trailers: Headers = field(default_factory=list)


class _Failed(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.kind = failure.kind


class _Call:
    """`Taker` of one try."""

    def __init__(self, loop: asyncio.AbstractEventLoop, body: bytes, max_bytes: int) -> None:
        self.done: asyncio.Future[Whole] = loop.create_future()
        self.pending: Cancellable | None = None
        self._body = body
        self._left = max_bytes
        self._stream: UpstreamStream | None = None
        self._answer: Whole | None = None
        self._pieces: list[bytes] = []

    def cancel(self) -> None:
        """Give up, wherever it stands."""
        if self.pending is not None:
            self.pending.cancel()
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.cancel()

    def _fail(self, failure: Failure) -> None:
        self._stream = None
        if not self.done.done():
            self.done.set_exception(_Failed(failure))

    # --- waypoint.upstream.pool.Taker -----------------------------------------------------------

    def connected(self, stream: UpstreamStream) -> None:
        self.pending = None
        self._stream = stream
        if self._body:
            stream.send_body(self._body)
            stream.send_end([])
        stream.flush()

    def flush_request(self) -> None: ...

    def unsendable(self, error: LocalProtocolError) -> None:
        self.pending = None
        if not self.done.done():
            self.done.set_exception(UpstreamError(f"the request cannot be sent: {error}"))

    def informed(self, head: ResponseHead) -> None: ...

    def responded(self, head: ResponseHead) -> None:
        self._answer = Whole(status=head.status, headers=head.headers)

    def response_body(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self.cancel()
            if not self.done.done():
                self.done.set_exception(UpstreamError("the answer is too large"))
            return
        self._pieces.append(data)

    def response_end(self, trailers: Headers) -> None:
        self._stream = None
        if self._answer is not None and not self.done.done():
            self._answer.body = b"".join(self._pieces)
            self._answer.trailers = trailers
            self.done.set_result(self._answer)

    def flush_response(self) -> None: ...

    def upstream_failed(self, failure: Failure) -> None:
        self.pending = None
        self._fail(failure)

    def upstream_blocked(self, blocked: bool) -> None: ...


async def call(
    pool: Pool, target: Target, speaks: Speaks, head: RequestHead, body: bytes, *, max_bytes: int
) -> Whole:
    """Send a request and read its answer of at most `max_bytes`.

    A connection that was idle too long is tried once more. Raises `UpstreamError`. The caller
    bounds the time; a cancelled call leaves nothing behind.
    """
    loop = asyncio.get_running_loop()
    tries = 1
    target.active += 1
    try:
        while True:
            try:
                return await _try(loop, pool, target, speaks, head, body, max_bytes)
            except _Failed as error:
                if error.kind not in _AGAIN or tries == _TRIES:
                    raise UpstreamError(str(error)) from error
            tries += 1
    finally:
        target.active -= 1


async def _try(
    loop: asyncio.AbstractEventLoop,
    pool: Pool,
    target: Target,
    speaks: Speaks,
    head: RequestHead,
    body: bytes,
    max_bytes: int,
) -> Whole:
    taker = _Call(loop, body, max_bytes)
    taker.pending = pool.start(target, speaks, head, taker)
    try:
        return await taker.done
    finally:
        taker.cancel()
