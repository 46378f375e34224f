"""The data path of one worker, put together: exchanges, plans, choice of endpoints, records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from random import Random
from typing import TypeVar

from mesh.http1.message import Headers, RequestHead
from mesh.model.address import IPAddress
from mesh.model.connection import Party
from mesh.model.identity import SpiffeId
from mesh.model.request import RequestFlag, RequestRecord
from mesh.telemetry.trace_context import Trace, TraceStarter
from waypoint.contract import Downstream, Origin
from waypoint.exchange.exchange import Exchange
from waypoint.exchange.forward_headers import CallerFields, caller_fields, prepare_request
from waypoint.exchange.mirror import Copies, Mirrors
from waypoint.exchange.open_exchanges import OpenExchanges
from waypoint.limits import ProxyLimits
from waypoint.resilience import retry
from waypoint.resilience.crowd import PYTHON, Crowd
from waypoint.resilience.fair import FairGate
from waypoint.routing.plan import Forward, Marks, Reply, Router, Wait
from waypoint.upstream.pool import Pool
from waypoint.upstream.target import Target, choose

_NO_MARKS = Marks()
Begun = TypeVar("Begun", bound=Exchange)


class Proxy:
    """`Exchanges` for the codecs, `ExchangeHost` for the exchanges.

    Args:
        record: gets every request that ended.
        identity: the waypoint's own, for `x-forwarded-client-cert`.
        traces: follows and begins traces; span: gets those requests that make a span.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        limits: ProxyLimits,
        pool: Pool,
        router: Router,
        record: Callable[[RequestRecord], None],
        random: Random,
        identity: SpiffeId | None = None,
        now: Callable[[], float] = time.monotonic,
        traces: TraceStarter | None = None,
        span: Callable[[Trace, RequestRecord], None] | None = None,
    ) -> None:
        self.loop = loop
        self.now = now
        self.limits = limits
        self.pool = pool
        self.router = router
        self.crowd = Crowd()
        self.mirrors = Mirrors(loop, pool, limits.mirror_copies)
        self.fair = FairGate(limits.worker_requests)
        self.under_way = OpenExchanges(now, time.time)
        self._record = record
        self._traces = traces
        self._span = span
        self.tap: Callable[[RequestRecord, Headers], None] | None = None
        """Shows requests to whoever watches; None while nobody does."""
        self._random = random
        self._identity = identity
        self._callers: dict[tuple[SpiffeId | None, IPAddress], CallerFields] = {}

    def open(self, downstream: Downstream, head: RequestHead, origin: Origin) -> Exchange:
        return self.begun(Exchange(self, downstream, head, origin))

    @property
    def active(self) -> int:
        """Requests under way here."""
        return self.crowd.cells[PYTHON]

    @active.setter
    def active(self, count: int) -> None:
        self.crowd.cells[PYTHON] = count

    @property
    def load(self) -> int:
        """Requests under way in this worker."""
        return self.crowd.size

    def begun(self, exchange: Begun) -> Begun:
        """Count an exchange as under way."""
        self.active += 1
        self.under_way.add(exchange)
        return exchange

    def switched(self, exchange: Exchange) -> None:
        self.under_way.switched(exchange)

    def plan(self, exchange: Exchange) -> Forward | Reply | Wait:
        """Settle identity headers first, so that policy and routes see what is forwarded."""
        head, origin = exchange.head, exchange.origin
        if self.load > self.fair.free:
            refusal = self.fair.admit(exchange, origin.principal or origin.client.ip)
            if refusal is not None:
                return refusal
        if not head.host:  # HTTP/1.0
            head.host = str(origin.dialled).encode("ascii")
        exchange.seen = prepare_request(head, self.fields_of(origin), self._random, self._traces)
        return self.router.plan(origin, head)

    def fields_of(self, origin: Origin) -> CallerFields:
        """Header fields that every request of an origin gets."""
        key = (origin.principal, origin.client.ip)
        fields = self._callers.get(key)
        if fields is None:
            if len(self._callers) > 10_000:
                self._callers.clear()
            fields = self._callers[key] = caller_fields(key[0], self._identity, str(key[1]))
        return fields

    def pick(self, forward: Forward, avoid: Target | None) -> Target | None:
        return choose(forward.group.targets, self._random, avoid)

    def backoff_s(self, tries: int, forward: Forward) -> float:
        return retry.backoff_s(tries, forward.retry, self._random)

    def mirror(self, forward: Forward, head: RequestHead) -> Copies | None:
        found = [(choose(g.targets, self._random, None), g.speaks) for g in forward.mirrors]
        targets = [(target, speaks) for target, speaks in found if target is not None]
        return self.mirrors.start(targets, head)

    def ended(self, exchange: Exchange) -> None:
        self.active -= 1
        self.under_way.discard(exchange)
        self.fair.release(exchange)
        record = self._record_of(exchange)
        self._record(record)
        trace = exchange.seen.trace
        if trace is not None and self._span is not None:
            self._span(trace, record)
        if self.tap is not None:
            self.tap(record, exchange.head.headers)

    def tell(self, record: RequestRecord, headers: Headers) -> None:
        """Take a request that ended elsewhere; `headers` as it went on."""
        self._record(record)
        if self.tap is not None:
            self.tap(record, headers)

    def refused(self, origin: Origin, protocol: str, status: int, code: str) -> None:
        self._record(
            RequestRecord(
                src=origin.src,
                dst=Party(),
                service=origin.service.key if origin.service else "",
                protocol=protocol,
                method="",
                path="",
                authority="",
                status=status,
                grpc_status=-1,
                flag=RequestFlag.DOWNSTREAM_PROTOCOL_ERROR,
                details=code,
                bytes_received=0,
                bytes_sent=0,
                started_at=time.time(),
                duration_s=0.0,
                upstream_s=None,
                upstream_addr=None,
                client_addr=origin.client,
                dialled_addr=origin.dialled,
                route="",
                request_id="",
                user_agent="",
                forwarded_for="",
                tries=0,
                mutual_tls=origin.principal is not None,
            )
        )

    def _record_of(self, exchange: Exchange) -> RequestRecord:
        head, origin, seen, tries = exchange.head, exchange.origin, exchange.seen, exchange.tries
        target = tries.target if tries is not None else None
        duration = self.now() - exchange.started_at
        answered = exchange.responded_at
        marks = exchange.marks or _NO_MARKS
        return RequestRecord(
            src=origin.src,
            dst=target.dst if target is not None else Party(),
            service=origin.service.key if origin.service else "",
            protocol=exchange.protocol,
            method=head.method.decode("latin-1"),
            path=head.target.decode("latin-1"),
            authority=head.host.decode("latin-1"),
            status=exchange.status,
            grpc_status=exchange.grpc_status,
            flag=exchange.flag,
            details=exchange.details,
            bytes_received=exchange.bytes_received,
            bytes_sent=exchange.bytes_sent,
            started_at=time.time() - duration,
            duration_s=duration,
            upstream_s=None if answered is None else answered - exchange.started_at,
            upstream_addr=target.key.address if target is not None else None,
            client_addr=origin.client,
            dialled_addr=origin.dialled,
            route=exchange.route,
            request_id=seen.request_id.decode("latin-1"),
            user_agent=seen.user_agent.decode("latin-1"),
            forwarded_for=seen.forwarded_for.decode("latin-1"),
            tries=tries.count if tries is not None else 0,
            mutual_tls=origin.principal is not None,
            policy=marks.policy,
            audited=marks.audited,
            dry_run=marks.dry_run,
        )
