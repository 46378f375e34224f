"""Requests that the lane for HTTP/2 took, as Python's exchanges and records."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mesh.http1.message import RequestHead
from mesh.http2.contract import LaneRequest, RequestReturned
from mesh.http2.lane import End, Reason
from mesh.model.request import RequestFlag, RequestRecord
from waypoint.codec.h2_server import ServerStream
from waypoint.contract import Failure, FailureKind, Origin
from waypoint.exchange.exchange import Exchange
from waypoint.exchange.forward_headers import Seen
from waypoint.exchange.tries import Tries
from waypoint.routing.plan import Forward
from waypoint.upstream.target import Target

FLAGS = {
    End.FINE: RequestFlag.NONE,
    End.CLIENT_GONE: RequestFlag.DOWNSTREAM_CLOSED,
    End.SERVER_CUT: RequestFlag.UPSTREAM_CLOSED,
    End.SERVER_WRONG: RequestFlag.UPSTREAM_PROTOCOL_ERROR,
    End.CLIENT_STUCK: RequestFlag.STREAM_IDLE,
}
_DETAILS = {
    End.FINE: "via_upstream",
    End.CLIENT_GONE: "client reset the stream",
    End.SERVER_CUT: "stream reset by the server",
    End.SERVER_WRONG: "stream reset by the server",
    End.CLIENT_STUCK: "http2.write_timeout",
}
_KINDS = {
    Reason.REFUSED: FailureKind.NEVER_SENT,  # RFC 9113 §8.7
    Reason.CLOSED_REUSED: FailureKind.NO_ANSWER_REUSED,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A decision, and who came with the first request of its kind."""

    plan: Forward
    origin: Origin


class Resumed(Exchange):
    """An exchange whose first try was the lane's."""

    __slots__ = ()

    def resume(self, entry: Entry, target: Target, event: RequestReturned) -> None:
        """As after `begin`, what came of the body, and perhaps the beginning of an answer."""
        plan, request = entry.plan, event.request
        self.started_at -= request.seconds
        self.tries = Tries(self._host, self, plan)
        self.tries.resume(target)
        self.route, self.marks = plan.route, plan.marks
        if event.body is None or request.status:
            self._forget_body()
            self.bytes_received = request.received_bytes
        elif event.body:
            self.request_body(event.body)
        if request.is_over:
            self.request_end([])
        if request.answered_s is not None:
            self._responded = True
            self.responded_at = self.started_at + request.answered_s
            self.status, self.grpc_status = request.status, request.grpc_status
            self.bytes_sent = request.sent_bytes


def record_of(
    head: RequestHead,
    seen: Seen,
    origin: Origin,
    entry: Entry,
    target: Target,
    request: LaneRequest,
) -> RequestRecord:
    """The record of a request that has ended."""
    end = End(request.why)
    return RequestRecord(
        src=origin.src,
        dst=target.dst,
        service=origin.service.key if origin.service else "",
        protocol=ServerStream.protocol,
        method=head.method.decode("latin-1"),
        path=head.target.decode("latin-1"),
        authority=head.host.decode("latin-1"),
        status=request.status,
        grpc_status=request.grpc_status,
        flag=FLAGS[end],
        details=_DETAILS[end],
        bytes_received=request.received_bytes,
        bytes_sent=request.sent_bytes,
        started_at=time.time() - request.seconds,
        duration_s=request.seconds,
        upstream_s=request.answered_s,
        upstream_addr=target.key.address,
        client_addr=origin.client,
        dialled_addr=origin.dialled,
        route=entry.plan.route,
        request_id=seen.request_id.decode("latin-1"),
        user_agent=seen.user_agent.decode("latin-1"),
        forwarded_for=seen.forwarded_for.decode("latin-1"),
        tries=1,
        mutual_tls=origin.principal is not None,
    )


def failure_of(request: LaneRequest) -> Failure:
    """Why the first try of a request failed."""
    reason = Reason(request.why)
    flag = RequestFlag.UPSTREAM_CLOSED
    detail = "connection closed"
    if reason is Reason.UNUSUAL:
        flag, detail = RequestFlag.UPSTREAM_PROTOCOL_ERROR, "http2.bad_answer"
    elif reason in (Reason.REFUSED, Reason.RESET):
        detail = f"stream reset by the server ({request.error_code})"
    kind = _KINDS.get(reason, FailureKind.MAY_BE_DELIVERED)
    return Failure(kind=kind, flag=flag, detail=detail)
