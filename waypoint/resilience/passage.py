"""One request under a TrafficPolicy: what the policy does at each step of its exchange.

An exchange whose plan names no protection has no passage, and pays nothing.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, assert_never

from mesh.http1.message import Headers, RequestHead, ResponseHead
from mesh.model.request import RequestFlag
from mesh.resilience.circuit import Resource
from mesh.resilience.cluster import Lease, Refusal
from mesh.resilience.outlier import Outcome, outcome_of
from waypoint.resilience.affinity import Affinity
from waypoint.resilience.hedge import Race
from waypoint.resilience.pacing import Pacing
from waypoint.resilience.request_gate import HeaderView, grpc_fields, limited_fields
from waypoint.resilience.retry import IDEMPOTENT, grpc_status
from waypoint.upstream.target import Speaks, Target

if TYPE_CHECKING:
    from waypoint.contract import UpstreamStream
    from waypoint.exchange.exchange import Exchange
    from waypoint.exchange.exchange_host import ExchangeHost
    from waypoint.exchange.tries import Tries
    from waypoint.resilience.protection import Protection
    from waypoint.upstream.pending import Pending, Taker

# What a grpc-status says of the server (as HTTP: 504, 503, 500), not of the call.
_GRPC_FAILED = {
    4: Outcome.GATEWAY_ERROR,
    14: Outcome.GATEWAY_ERROR,
    2: Outcome.SERVER_ERROR,
    13: Outcome.SERVER_ERROR,
    15: Outcome.SERVER_ERROR,
}


class Passage:
    """See the module; also `waypoint.resilience.hedge.Course`."""

    __slots__ = (
        "_affinity", "_delay", "_exchange", "_hedges", "_host", "_lease", "_protection",
        "_retrying", "_tries",
    )  # fmt: skip

    def __init__(
        self, host: ExchangeHost, exchange: Exchange, tries: Tries, protection: Protection
    ) -> None:
        self._host = host
        self._exchange = exchange
        self._tries = tries
        self._protection = protection
        self._lease: Lease[Target] | None = None
        self._affinity = Affinity.of(protection, exchange, time.time)
        self._delay: asyncio.TimerHandle | None = None
        self._retrying = False
        self._hedges = 0
        if protection.paces is not None:
            exchange.pacing = Pacing(host, exchange, protection.paces)

    def now(self) -> float:
        return self._host.now()

    # --- before any try -------------------------------------------------------------------------

    def enter(self) -> None:
        """Limits, then faults, then the first try."""
        gate, exchange = self._protection.gate, self._exchange
        budget = self._protection.cluster.budget
        if budget is not None:
            budget.count_request(self.now())
        if gate is None:
            self._tries.proceed()
            return
        headers = HeaderView(exchange.head)
        refused = gate.limit(exchange.origin.principal, headers, self.now())
        if refused is not None:
            fields = limited_fields(refused, grpc=exchange.seen.is_grpc)
            detail = f"rate_limited[{refused.limit}]"
            exchange.answer(429, "rate limited", RequestFlag.RATE_LIMITED, detail, fields)
            return
        fault = gate.fault(headers)
        if fault.delay_s is not None:
            exchange.flag = RequestFlag.DELAY_INJECTED
            self._delay = self._host.loop.call_later(
                fault.delay_s, self._go_on, fault.http_status, fault.grpc_status
            )
            return
        self._go_on(fault.http_status, fault.grpc_status)

    def _go_on(self, http_status: int | None, grpc_status: int | None) -> None:
        self._delay = None
        exchange = self._exchange
        if http_status is None and grpc_status is None:
            self._tries.proceed()
            return
        text = "fault filter abort"
        fields: Headers | None = None
        if grpc_status is not None:
            fields = grpc_fields(grpc_status, text)
        status = 200 if http_status is None else http_status
        body = "" if grpc_status is not None and not exchange.seen.is_grpc else text
        exchange.answer(status, body, RequestFlag.FAULT_INJECTED, "fault_injected", fields)

    # --- tries ----------------------------------------------------------------------------------

    def take(self, avoid: Target | None) -> Target | None:
        """An endpoint for a try; None if the request was answered instead."""
        lease = self._choose(avoid)
        match lease:
            case Lease():
                self._lease = lease
                return lease.endpoint
            case Refusal.NO_ENDPOINT:
                text = f"{self._tries.plan.group.name} has no healthy endpoint"
                self._exchange.answer(503, text, RequestFlag.NO_HEALTHY_UPSTREAM, str(lease))
            case Refusal.OVERFLOW:
                flag = RequestFlag.UPSTREAM_OVERFLOW
                self._exchange.answer(503, "overloaded", flag, str(lease))
            case _:
                assert_never(lease)
        return None

    def _choose(self, avoid: Target | None) -> Lease[Target] | Refusal:
        affinity, cluster = self._affinity, self._protection.cluster
        if affinity is None:
            return cluster.take(self.now(), avoid=avoid)
        wanted = affinity.wanted if avoid is None else None
        return cluster.take(self.now(), key=affinity.key, avoid=avoid, wanted=wanted)

    def start(
        self, target: Target, speaks: Speaks, head: RequestHead, taker: Exchange
    ) -> Pending | Race | None:
        """Send the request to the endpoint that was taken, in a race if the policy hedges."""
        hedging, lease = self._protection.hedging, self._lease
        if hedging is None or lease is None or head.method not in IDEMPOTENT:
            breaker = self._protection.cluster.breaker
            return self._host.pool.start(target, speaks, head, taker, breaker)
        race = Race(taker, self)
        race.begin(lease, self._host.loop.call_later, hedging.after_s, hedging.attempts)
        return race if race.is_pending else None

    def start_runner(self, lease: Lease[Target], runner: Taker) -> Pending | None:
        exchange = self._exchange
        return self._host.pool.start(
            lease.endpoint,
            self._tries.version(),
            exchange.head,
            runner,
            self._protection.cluster.breaker,
        )

    def hedge(self) -> Lease[Target] | None:
        """One more endpoint, if the request is whole and budget and limits allow a retry."""
        cluster, exchange = self._protection.cluster, self._exchange
        if not exchange.is_whole or not cluster.breaker.acquire(Resource.RETRIES):
            return None
        if cluster.budget is not None and not cluster.budget.allow_retry(self.now()):
            cluster.breaker.release(Resource.RETRIES)
            return None
        lease = self._choose(self._tries.target)
        if not isinstance(lease, Lease):
            cluster.breaker.release(Resource.RETRIES)
            return None
        self._hedges += 1
        self._tries.count += 1
        return lease

    def won(self, lease: Lease[Target]) -> None:
        """The race is decided: its winner's endpoint is the request's."""
        self._lease = lease
        self._tries.target = lease.endpoint

    def may_retry(self) -> bool:
        """Whether limit and budget allow another try; a spent budget answers (GEP-3388)."""
        cluster = self._protection.cluster
        self._end_retry()
        if not cluster.breaker.acquire(Resource.RETRIES):
            self._exchange.flag = RequestFlag.UPSTREAM_OVERFLOW
            self._exchange.details = "retry_overflow"
            return False
        self._retrying = True
        if cluster.budget is not None and not cluster.budget.allow_retry(self.now()):
            text = "retry budget spent"
            self._exchange.answer(503, text, RequestFlag.RETRY_LIMIT, "retry_budget_spent")
            return False
        return True

    def _end_retry(self) -> None:
        breaker = self._protection.cluster.breaker
        if self._retrying:
            self._retrying = False
            breaker.release(Resource.RETRIES)
        while self._hedges:
            self._hedges -= 1
            breaker.release(Resource.RETRIES)

    # --- what becomes of a try ------------------------------------------------------------------

    def failed(self, flag: RequestFlag) -> None:
        """No status came; a limit of our own says nothing of the endpoint."""
        if self._lease is not None and flag is not RequestFlag.UPSTREAM_OVERFLOW:
            self._lease.judge(Outcome.LOCAL_FAILURE, self.now())

    def heard(self, head: ResponseHead) -> None:
        """A response begins. What a gRPC call says comes at its end, but for trailers-only."""
        if self._lease is None:
            return
        if not self._exchange.seen.is_grpc or head.status != 200:
            self._lease.judge(outcome_of(head.status), self.now())
            return
        status = grpc_status(head)
        if status >= 0:
            self._lease.judge(_GRPC_FAILED.get(status, Outcome.OK), self.now())

    def over(self, stream: UpstreamStream | None) -> None:
        """The response is complete."""
        if self._lease is not None and self._exchange.seen.is_grpc:
            outcome = _GRPC_FAILED.get(self._exchange.grpc_status, Outcome.OK)
            self._lease.judge(outcome, self.now())
        if stream is not None and self._exchange.pacing is not None:
            stream.resume_reading()  # the connection goes back to the pool

    def leave(self) -> None:
        """The try is over; its endpoint is free."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release(self.now())

    def decorate(self, head: ResponseHead) -> None:
        """Fields that tie the caller to its endpoint."""
        target = self._tries.target
        if self._affinity is not None and target is not None:
            head.headers = [*head.headers, *self._affinity.fields(target)]

    def close(self) -> None:
        """The exchange is over."""
        self._end_retry()
        self.leave()
        if self._delay is not None:
            self._delay.cancel()
        pacing = self._exchange.pacing
        if pacing is not None:
            pacing.close()
