"""What is to be done with one request: answered here, or forwarded, and in what form. Pure.

The data path normalises the request, asks `make_plan`, obeys, and passes the response head
through `finish_response`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import TypeAlias

from mesh.model.routing import NO_FILTERS, RouteFilters
from mesh.model.workload import ServiceKey
from mesh.routing.cors import answer_preflight, decorate, is_preflight
from mesh.routing.filters import apply_request, apply_response, redirect
from mesh.routing.index import RouteMatch
from mesh.routing.message import RequestFacts, RequestHead, ResponseHead
from mesh.routing.rule import Backend, CompiledRule, MirrorBackend
from mesh.routing.table import NoRoute, RouteTable


class AnswerReason(StrEnum):
    """Why a request is answered here; goes into the access log as response details."""

    NO_MATCH = "route_not_found"
    REDIRECT = "redirect"
    PREFLIGHT = "cors_preflight"
    NO_BACKEND = "no_backend"
    """The rule has no backend, or none with a weight."""
    BAD_BACKEND = "backend_not_usable"
    """The share of a backend that does not exist, is not permitted or of no use."""
    UNUSABLE_FILTER = "filter_not_supported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Reply with this head, without asking anybody."""

    head: ResponseHead
    reason: AnswerReason
    match: RouteMatch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy of the request for a mirror; its response is thrown away."""

    to: MirrorBackend
    head: RequestHead


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Send to a service, in this form.

    Attributes:
        match: None where no route is attached: the request goes on as it came.
        received: the request before any filter; CORS and logs speak of that one.
    """

    service: ServiceKey
    port: int
    head: RequestHead
    received: RequestHead
    match: RouteMatch | None = None
    backend: Backend | None = None
    copies: tuple[Copy, ...] = ()


Plan: TypeAlias = Answer | Forward

# HTTP status -> gRPC status of a local reply: UNIMPLEMENTED where there is no route, otherwise
# UNAVAILABLE (Gateway API GRPCRoute; gRPC's own mapping of statuses would say UNKNOWN for 500).
_GRPC_STATUS: Mapping[int, int] = {404: 12, 500: 14, 503: 14}


def is_grpc(head: RequestHead) -> bool:
    """Say whether a request is a gRPC call."""
    kind = next((value for name, value in head.headers if name == "content-type"), "")
    return kind == "application/grpc" or kind.startswith(("application/grpc+", "application/grpc;"))


def local_reply(head: RequestHead, status: int, message: str) -> ResponseHead:
    """Make a reply of our own: for gRPC 200 with trailers only, as its clients expect."""
    if not is_grpc(head):
        return ResponseHead(status=status)
    return ResponseHead(
        status=200,
        headers=(
            ("content-type", "application/grpc"),
            ("grpc-status", str(_GRPC_STATUS.get(status, 14))),
            ("grpc-message", message),
        ),
    )


Preference: TypeAlias = Callable[[CompiledRule, RequestHead], Backend | None]
"""Asked for the backend of a rule before chance is: a session leads back to its backend."""


def make_plan(
    table: RouteTable,
    facts: RequestFacts,
    random: Random,
    listener_port: int | None = None,
    prefer: Preference | None = None,
) -> Plan:
    """Decide about a request; `listener_port` is what a redirect names (default: facts.port)."""
    match = table.match(facts)
    head = facts.head
    if match is NoRoute.NOT_ATTACHED:
        return Forward(service=facts.service, port=facts.port, head=head, received=head)
    if isinstance(match, NoRoute):
        reply = local_reply(head, 404, "no route matches")
        return Answer(head=reply, reason=AnswerReason.NO_MATCH)
    rule = match.rule
    if rule.unusable is not None:
        return _refuse(head, match, AnswerReason.UNUSABLE_FILTER)
    answer = _answer_by(rule.filters, facts, match, listener_port)
    if answer is not None:
        return answer
    backend = prefer(rule, head) if prefer is not None else None
    return _forward(backend or rule.choose(random), match, facts, random, listener_port)


def _refuse(head: RequestHead, match: RouteMatch, reason: AnswerReason) -> Answer:
    reply = local_reply(head, 500, reason.replace("_", " "))
    return Answer(head=reply, reason=reason, match=match)


def _answer_by(
    filters: RouteFilters, facts: RequestFacts, match: RouteMatch, listener_port: int | None
) -> Answer | None:
    head = facts.head
    if filters.cors is not None and is_preflight(head):
        reply = answer_preflight(head, filters.cors)
        return Answer(head=reply, reason=AnswerReason.PREFLIGHT, match=match)
    if filters.redirect is None:
        return None
    port = facts.port if listener_port is None else listener_port
    reply = apply_response(redirect(head, filters.redirect, match.prefix, port), filters)
    if filters.cors is not None:
        reply = decorate(reply, head, filters.cors)
    return Answer(head=reply, reason=AnswerReason.REDIRECT, match=match)


def _forward(
    backend: Backend | None,
    match: RouteMatch,
    facts: RequestFacts,
    random: Random,
    listener_port: int | None,
) -> Plan:
    head, rule = facts.head, match.rule
    if backend is None:
        return _refuse(head, match, AnswerReason.NO_BACKEND)
    if backend.failure is not None:
        return _refuse(head, match, AnswerReason.BAD_BACKEND)
    own = backend.ref.filters
    answer = _answer_by(own, facts, match, listener_port)
    if answer is not None:
        return answer
    sent = apply_request(head, rule.filters, match.prefix)
    # A backend's rewrite replaces the rule's: both speak of the path that was matched.
    if own.rewrite is not None and own.rewrite.path is not None:
        sent = replace(sent, path=head.path)
    if own is not NO_FILTERS:
        sent = apply_request(sent, own, match.prefix)
    mirrors = rule.sampled_mirrors(random, backend)
    return Forward(
        service=backend.service,
        port=backend.port,
        head=sent,
        received=head,
        match=match,
        backend=backend,
        copies=tuple(Copy(to=mirror, head=sent) for mirror in mirrors),
    )


def finish_response(plan: Forward, response: ResponseHead) -> ResponseHead:
    """Apply the response filters of backend and rule, then CORS."""
    if plan.match is None:
        return response
    rule_filters = plan.match.rule.filters
    own = plan.backend.ref.filters if plan.backend else NO_FILTERS
    for filters in (own, rule_filters):
        response = apply_response(response, filters)
    cors = own.cors or rule_filters.cors
    return response if cors is None else decorate(response, plan.received, cors)
