"""The tries of one exchange: where each goes, and whether another follows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mesh.http1.message import CONNECT, ResponseHead
from mesh.model.request import RequestFlag
from waypoint.codec.h2_head import WEBSOCKET
from waypoint.contract import Failure, FailureKind
from waypoint.resilience import retry
from waypoint.resilience.passage import Passage
from waypoint.upstream.target import Speaks, Target

if TYPE_CHECKING:
    from waypoint.exchange.exchange import Exchange
    from waypoint.exchange.exchange_host import ExchangeHost
    from waypoint.routing.plan import Forward


class Tries:
    """Made with the plan.

    Attributes:
        target: endpoint of the present or last try.
        count: tries so far.
        passage: what a TrafficPolicy does to the request; None where none holds.
    """

    __slots__ = (
        "_backoff", "_counted", "_exchange", "_host", "_timer", "count", "passage", "plan",
        "target",
    )  # fmt: skip

    def __init__(self, host: ExchangeHost, exchange: Exchange, plan: Forward) -> None:
        self._host = host
        self._exchange = exchange
        self.plan = plan
        self.target: Target | None = None
        self.count = 0
        self._counted = False
        self._timer: asyncio.TimerHandle | None = None
        self._backoff: asyncio.TimerHandle | None = None
        protection = plan.protection
        self.passage = Passage(host, exchange, self, protection) if protection else None

    def begin(self) -> None:
        """Start the first try, as soon as a policy lets it go."""
        if self._exchange.head.upgrade == CONNECT and not self._takes_tunnels():
            text = "CONNECT is not allowed"
            flag = RequestFlag.DOWNSTREAM_PROTOCOL_ERROR
            self._exchange.answer(405, text, flag, "connect_not_allowed")
        elif self.passage is None:
            self._start()
        else:
            self.passage.enter()

    def _takes_tunnels(self) -> bool:
        protection = self.plan.protection
        upgrades = protection.upgrades if protection is not None else None
        return upgrades is not None and upgrades.connect

    def resume(self, target: Target) -> None:
        """The first try is under way at this endpoint, without a policy."""
        self.target = target
        self.count = 1
        target.active += 1
        self._counted = True

    def proceed(self) -> None:
        """Start a try, later than in the call that asked for it."""
        self._backoff = None
        self._start()
        self._exchange.flush_request()

    def _start(self) -> None:
        previous, self.target = self.target, None
        target = self._take(previous)
        if target is None:
            return
        self.count += 1
        self.target = target
        self._counted = True
        if self.plan.try_timeout_s:
            self._timer = self._host.loop.call_later(self.plan.try_timeout_s, self._too_long)
        starter = self._host.pool if self.passage is None else self.passage
        exchange = self._exchange
        exchange.wait_for(starter.start(target, self.version(), exchange.head, exchange))

    def _take(self, previous: Target | None) -> Target | None:
        """Choose an endpoint and count the try there; None if that was answered."""
        if self.passage is not None:
            return self.passage.take(previous)
        target = self._host.pick(self.plan, previous)
        if target is None:
            detail = f"{self.plan.group.name} has no ready endpoint"
            flag = RequestFlag.NO_HEALTHY_UPSTREAM
            self._exchange.answer(503, detail, flag, "no_healthy_upstream")
            return None
        if target.load >= self._host.limits.upstream_requests:
            flag = RequestFlag.UPSTREAM_OVERFLOW
            self._exchange.answer(503, "overloaded", flag, "overflow")
            return None
        target.active += 1
        return target

    def version(self) -> Speaks:
        """gRPC needs HTTP/2 whatever the port says, and upgrades HTTP/1.1, but for those that
        HTTP/2 has a form for."""
        if self._exchange.head.upgrade not in (b"", CONNECT, WEBSOCKET):
            return Speaks.HTTP1
        speaks = self.plan.group.speaks
        if self._exchange.seen.is_grpc:
            return Speaks.HTTP2
        if speaks is Speaks.AS_CLIENT:
            return Speaks.HTTP2 if self._exchange.protocol == "HTTP/2" else Speaks.HTTP1
        return speaks

    # --- after a try ----------------------------------------------------------------------------

    def follows_failure(self, failure: Failure) -> bool:
        """Whether another try follows one that failed without a response."""
        method, rule = self._exchange.head.method, self.plan.retry
        if not self._may_repeat(retry.retries_failure(failure.kind, method, self.count, rule)):
            return False
        self._again(at_once=failure.kind is FailureKind.NO_ANSWER_REUSED)
        return True

    def follows_response(self, head: ResponseHead) -> bool:
        """Whether a response is dropped for another try."""
        if self.passage is not None:
            self.passage.heard(head)
        method, rule = self._exchange.head.method, self.plan.retry
        if not self._may_repeat(retry.retries_response(head, method, self.count, rule)):
            return False
        self._exchange.drop_upstream()
        self._again()
        return True

    def _may_repeat(self, wanted: bool) -> bool:
        """Whether to try again where the rules want it; a spent retry budget answers by itself."""
        if not wanted or not self._exchange.is_replayable:
            return False
        return self.passage is None or self.passage.may_retry()

    def _again(self, *, at_once: bool = False) -> None:
        """Plan the next try. Never from inside the call that ended the last one."""
        delay = 0.0 if at_once else self._host.backoff_s(self.count, self.plan)
        self._backoff = self._host.loop.call_later(delay, self.proceed)

    def _too_long(self) -> None:
        self._timer = None
        exchange = self._exchange
        self.late()
        method, rule = exchange.head.method, self.plan.retry
        if self._may_repeat(retry.retries_timeout(method, self.count, rule)):
            self._again(at_once=True)
        elif not exchange.is_over:
            text = "upstream request timeout"
            exchange.answer(504, text, RequestFlag.UPSTREAM_TIMEOUT, "upstream_per_try_timeout")

    def late(self) -> None:
        """Give the present try up: time has run out."""
        if self.passage is not None:
            self.passage.failed(RequestFlag.UPSTREAM_TIMEOUT)
        self._exchange.drop_upstream()

    def failed(self, flag: RequestFlag) -> None:
        """The present try ended without a proper response."""
        if self.passage is not None:
            self.passage.failed(flag)
        self.leave()

    def answered(self, head: ResponseHead) -> None:
        """The response goes to the client."""
        self._stop_timer()
        if self.passage is not None:
            self.passage.decorate(head)

    def leave(self) -> None:
        """Let go of the endpoint; harmless twice."""
        self._stop_timer()
        if self._counted and self.target is not None:
            self._counted = False
            if self.passage is not None:
                self.passage.leave()
            else:
                self.target.active -= 1

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """There are no more tries."""
        self._stop_timer()
        if self._backoff is not None:
            self._backoff.cancel()
        if self.passage is not None:
            self.passage.close()
