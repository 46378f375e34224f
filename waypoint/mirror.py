"""Copies of requests whose answers nobody reads.

Only requests without a body are copied in full; of others the head is not sent either, since half
a request would be refused or wait for ever. Copies take no part in retries and records.
"""

from __future__ import annotations

from dataclasses import replace

from mesh.errors import LocalProtocolError
from mesh.http1.message import Framing, Headers, RequestHead, ResponseHead
from waypoint.contract import Failure, UpstreamStream
from waypoint.pool import Pool
from waypoint.target import Speaks, Target


class _Copy:
    """`Taker` that drops whatever it hears."""

    def connected(self, stream: UpstreamStream) -> None:
        stream.flush()

    def flush_request(self) -> None: ...
    def flush_response(self) -> None: ...
    def unsendable(self, error: LocalProtocolError) -> None: ...
    def informed(self, head: ResponseHead) -> None: ...
    def responded(self, head: ResponseHead) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def response_end(self, trailers: Headers) -> None: ...
    def upstream_failed(self, failure: Failure) -> None: ...
    def upstream_blocked(self, blocked: bool) -> None: ...


def send_copy(pool: Pool, target: Target, speaks: Speaks, head: RequestHead) -> None:
    """Send a copy of a request that has no body."""
    if head.framing is Framing.NONE and not head.upgrade:
        pool.start(target, speaks, replace(head, headers=list(head.headers)), _Copy())
