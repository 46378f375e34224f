"""One request and its response: plan, tries, streaming both ways, and how it ended.

The only place that joins a client's codec with a server's. Bytes pass through; a bounded start of
the request's body is kept for another try until the response begins.
"""

from __future__ import annotations

import asyncio
from typing import assert_never

from mesh.errors import LocalProtocolError
from mesh.http1.message import Framing, Headers, RequestHead, ResponseHead
from mesh.model.request import RequestFlag
from waypoint.codec.local_reply import reply
from waypoint.contract import Downstream, Failure, Origin, UpstreamStream
from waypoint.exchange.exchange_host import ExchangeHost
from waypoint.exchange.forward_headers import Seen, passed_trailers
from waypoint.exchange.mirror import Copies
from waypoint.exchange.tries import Tries
from waypoint.resilience.pacing import Pacing
from waypoint.routing.plan import Cancellable, Forward, Marks, Reply, Wait

_STATUS_OF_FLAG = {
    RequestFlag.UPSTREAM_TIMEOUT: 504,
    RequestFlag.UPSTREAM_PROTOCOL_ERROR: 502,
}


class Exchange:
    """See `waypoint.contract`: `RequestSink` for the client, `ResponseSink` for the server."""

    __slots__ = (
        "_blocked", "_copies", "_deadline", "_done", "_down", "_held", "_held_bytes", "_host",
        "_pending", "_replayable", "_request_over", "_responded", "_response_over", "_up", "_wait",
        "bytes_received", "bytes_sent", "details", "flag", "grpc_status", "head", "marks", "origin",
        "pacing", "responded_at", "route", "seen", "started_at", "status", "tries", "upgraded",
    )  # fmt: skip

    def __init__(
        self, host: ExchangeHost, down: Downstream, head: RequestHead, origin: Origin
    ) -> None:
        self._host = host
        self._down = down
        self.head = head
        self.origin = origin
        self.seen = Seen()
        self.tries: Tries | None = None
        self.pacing: Pacing | None = None
        self._up: UpstreamStream | None = None
        self._pending: Cancellable | None = None
        self._wait: Wait | None = None
        self.marks: Marks | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._replayable = True
        self._blocked = False
        self._copies: Copies | None = None
        self._request_over: Headers | None = None
        self._responded = self._response_over = self._done = self.upgraded = False
        self._deadline: asyncio.TimerHandle | None = None
        self.status = self.bytes_received = self.bytes_sent = 0
        self.grpc_status = -1
        self.flag = RequestFlag.NONE
        self.details = "via_upstream"
        self.route = ""
        self.started_at = host.now()
        self.responded_at: float | None = None

    @property
    def protocol(self) -> str:
        return self._down.protocol

    # --- request --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Plan and start the first try; called once, before anything of the body."""
        self._follow(self._host.plan(self))

    def _follow(self, plan: Forward | Reply | Wait) -> None:
        match plan:
            case Reply():
                self.route, self.marks = plan.route, plan.marks
                self.answer(plan.status, plan.text, plan.flag, plan.details, plan.headers)
            case Forward():
                self.tries = Tries(self._host, self, plan)
                self.route, self.marks = plan.route, plan.marks
                if plan.request_timeout_s:
                    self._deadline = self._host.loop.call_later(
                        plan.request_timeout_s, self._out_of_time
                    )
                if plan.mirrors:
                    self._mirror(plan)
                self.tries.begin()
            case Wait():
                self._await_plan(plan)
            case _:
                assert_never(plan)

    def _await_plan(self, wait: Wait) -> None:
        """Begin to wait, once there is as much of the body as is wanted for it."""
        self._wait = None
        whole = self._request_over is not None or self.head.framing is Framing.NONE
        wanted = min(wait.body_bytes, self._host.limits.replay_bytes)
        if wanted and not whole and self._held_bytes <= wanted:
            self._wait = wait
            if self.head.expects_continue:
                self._down.inform(100, [])
            return
        self._pending = wait.begin(b"".join(self._held), whole, self._planned)

    def _planned(self, plan: Forward | Reply | Wait) -> None:
        self._pending = None
        if not self._done:
            self._follow(plan)
            self.flush_request()

    def request_body(self, data: bytes) -> None:
        if self._done:
            return
        self.bytes_received += len(data)
        if self._copies is not None:
            self._copies.body(data)
        if self.pacing is not None:
            self.pacing.request_passed(len(data))
        if self._replayable:
            self._held.append(data)
            self._held_bytes += len(data)
        if self._up is not None:
            self._up.send_body(data)
            if self._held_bytes > self._host.limits.replay_bytes:
                self._forget_body()
            return
        if self._held_bytes > self._host.limits.replay_bytes:
            self._down.pause_reading()
        if self._wait is not None:
            self._await_plan(self._wait)

    def _mirror(self, plan: Forward) -> None:
        """Begin the copies; what waited for the plan goes to them first."""
        self._copies = copies = self._host.mirror(plan, self.head)
        if copies is not None:
            for piece in self._held:
                copies.body(piece)
            if self._request_over is not None:
                copies.end(self._request_over)

    def request_end(self, trailers: Headers) -> None:
        if self._done:
            return
        if trailers:
            trailers = passed_trailers(trailers)
        self._request_over = trailers
        if self._copies is not None:
            self._copies.end(trailers)
        if self._up is not None and (self.head.framing is not Framing.NONE or self.upgraded):
            self._up.send_end(trailers)
        if self._wait is not None:
            self._await_plan(self._wait)
        if self.upgraded:
            self._finish_upgraded()

    def flush_request(self) -> None:
        if self._up is not None:
            self._up.flush()

    def client_gone(self, flag: RequestFlag, detail: str) -> None:
        """The client can't be answered any more."""
        if not self._done:
            if not (self.upgraded and self._response_over):
                self.flag, self.details = flag, detail
            self._end()

    def client_blocked(self, blocked: bool) -> None:
        if self.pacing is not None:
            blocked = self.pacing.holds_response(blocked)
        self._blocked = blocked
        if self._up is not None:
            if blocked:
                self._up.pause_reading()
            else:
                self._up.resume_reading()

    # --- tries ----------------------------------------------------------------------------------

    def wait_for(self, pending: Cancellable | None) -> None:
        """A connection is on its way."""
        self._pending = pending

    @property
    def is_replayable(self) -> bool:
        """Whether all that came of the request is still here."""
        return self._replayable

    @property
    def is_whole(self) -> bool:
        """Whether all of the request is here, so that another try can send it."""
        over = self._request_over is not None or self.head.framing is Framing.NONE
        return self._replayable and over and not self.head.upgrade

    @property
    def is_over(self) -> bool:
        """Whether the client has its answer, or is gone."""
        return self._done

    def connected(self, stream: UpstreamStream) -> None:
        """The pool sent the request's head on `stream`."""
        self._pending = None
        self._up = stream
        if self._blocked:
            stream.pause_reading()
        if self.head.expects_continue:
            self._down.inform(100, [])
        self.feed(stream)
        if self._held_bytes > self._host.limits.replay_bytes:
            self._forget_body()
            self.upstream_blocked(False)

    def feed(self, stream: UpstreamStream) -> None:
        """Send what is here of the request's body."""
        if self.head.framing is Framing.NONE:
            return
        for piece in self._held:
            stream.send_body(piece)
        if self._request_over is not None:
            stream.send_end(self._request_over)

    def unsendable(self, error: LocalProtocolError) -> None:
        """The head can't be written in the server's HTTP version."""
        self._pending = None
        self.answer(400, "bad header field", RequestFlag.DOWNSTREAM_PROTOCOL_ERROR, str(error))

    def upstream_failed(self, failure: Failure) -> None:
        self._pending = self._up = None
        tries = self.tries
        if tries is None:
            return
        tries.failed(failure.flag)
        if self._responded and not self._done:
            self.cut(failure.flag, failure.detail)
        elif not self._done and not tries.follows_failure(failure) and not self.is_over:
            status = _STATUS_OF_FLAG.get(failure.flag, 503)
            self.answer(status, "upstream connect error or reset", failure.flag, failure.detail)

    def _out_of_time(self) -> None:
        self._deadline = None
        if self.tries is not None:
            self.tries.late()
        if self._responded:
            self.cut(RequestFlag.UPSTREAM_TIMEOUT, "response_timeout")
        else:
            text = "upstream request timeout"
            self.answer(504, text, RequestFlag.UPSTREAM_TIMEOUT, "response_timeout")

    # --- response -------------------------------------------------------------------------------

    def informed(self, head: ResponseHead) -> None:
        if head.status != 100:  # we said that ourselves, when the upstream was connected
            self._down.inform(head.status, head.headers)

    def responded(self, head: ResponseHead) -> None:
        tries = self.tries
        if tries is None or self._done or tries.follows_response(head) or self.is_over:
            return
        self.responded_at = self._host.now()
        finish = tries.plan.finish
        if finish is not None:
            head.headers = finish(head.status, head.headers)
        tries.answered(head)
        self.upgraded = bool(head.upgrade)
        if self.seen.is_grpc:
            self._note_grpc(head.headers)
        self._send_head(head)

    def _send_head(self, head: ResponseHead) -> None:
        self._forget_body()
        self.status = head.status
        try:
            self._down.respond(head)
        except LocalProtocolError as error:
            self.drop_upstream()
            self.answer(502, "bad header", RequestFlag.UPSTREAM_PROTOCOL_ERROR, str(error))
            return
        self._responded = True
        if self.upgraded:
            self._host.switched(self)
            if self._deadline is not None:
                self._deadline.cancel()  # GEP-1742: a timeout is of a request, not of a tunnel

    def response_body(self, data: bytes) -> None:
        if not self._done and self._responded:
            self.bytes_sent += len(data)
            self._down.send_body(data)
            if self.pacing is not None:
                self.pacing.response_passed(len(data))

    def flush_response(self) -> None:
        if not self._done:
            self._down.flush()

    def response_end(self, trailers: Headers) -> None:
        if self._done or not self._responded:
            return
        self._response_over = True
        if self.seen.is_grpc:
            self._note_grpc(trailers)
        if self.upgraded:
            self._down.send_end(trailers)
            self._finish_upgraded()
            return
        if self.tries is not None and self.tries.passage is not None:
            self.tries.passage.over(self._up)
        self._up = None
        self._close_books()
        self._down.send_end(trailers)

    def upstream_blocked(self, blocked: bool) -> None:
        if self.pacing is not None:
            blocked = self.pacing.holds_request(blocked)
        if blocked:
            self._down.pause_reading()
        else:
            self._down.resume_reading()

    def _note_grpc(self, headers: Headers) -> None:
        for name, value in headers:
            if name == b"grpc-status" and value.isdigit() and len(value) < 3:
                self.grpc_status = int(value)

    # --- ends -----------------------------------------------------------------------------------

    def answer(
        self,
        status: int,
        text: str,
        flag: RequestFlag,
        details: str,
        headers: Headers | None = None,
    ) -> None:
        """Answer by ourselves and be done."""
        self.flag, self.details = flag, details
        head, body = reply(
            status,
            text,
            grpc=self.seen.is_grpc,
            is_head=self.head.method == b"HEAD",
            headers=headers,
        )
        self._note_grpc(head.headers)
        self.status = head.status
        self._forget_body()
        self._end()
        self._down.respond(head)
        if body:
            self.bytes_sent = len(body)
            self._down.send_body(body)
        self._down.send_end([])

    def cut(self, flag: RequestFlag, details: str) -> None:
        """The response can't be completed, and the client must notice."""
        self.flag, self.details = flag, details
        self._end()
        self._down.reset()

    def _finish_upgraded(self) -> None:
        if self._request_over is not None and self._response_over:
            self._end()
            self._down.finish()

    def _end(self) -> None:
        self.drop_upstream()
        self._close_books()

    def _close_books(self) -> None:
        self._done = True
        if self._copies is not None and self._request_over is None:
            self._copies.cut()
        if self._deadline is not None:
            self._deadline.cancel()
        if self.tries is not None:
            self.tries.leave()
            self.tries.close()
        self._host.ended(self)

    def drop_upstream(self) -> None:
        """Give up what is under way towards the server."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        if self._up is not None:
            up, self._up = self._up, None
            up.cancel()
        if self.tries is not None:
            self.tries.leave()

    def _forget_body(self) -> None:
        self._replayable = False
        self._held = []
        self._held_bytes = 0
