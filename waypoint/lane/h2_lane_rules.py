"""What the lane for HTTP/2 may repeat: which fields it moves, which decisions are plain. Pure."""

from __future__ import annotations

from mesh.http2.lane import FieldRules
from mesh.telemetry.trace_context import TRACE_FIELDS
from waypoint.exchange.exchange import Exchange
from waypoint.exchange.forward_headers import IDENTITY_FIELDS
from waypoint.routing.plan import Forward
from waypoint.upstream.target import Speaks

_PARENT, _STATE = b"traceparent", b"tracestate"


def rules(*, moves_contexts: bool) -> FieldRules:
    """`moves_contexts`: traces are neither begun nor exported, but put behind other fields."""
    moved = {_PARENT, _STATE} if moves_contexts else set()
    return FieldRules(
        claims=IDENTITY_FIELDS,
        head_only=(b"user-agent",),
        unusual=TRACE_FIELDS - moved,
        trace_parent=moved & {_PARENT},
        trace_state=moved & {_STATE},
    )


def is_plain(plan: Forward, exchange: Exchange) -> bool:
    group, rule = plan.group, plan.retry
    same = Forward(group=group, route=plan.route, retry=rule, steady=True)
    if plan != same or rule.codes or rule.grpc_codes or not group.targets:
        return False
    return group.speaks is Speaks.HTTP2 or exchange.seen.is_grpc
