"""Policy and routes of a snapshot, applied to a request: see `waypoint.routing.plan.Router`.

The path is normalised once, before both; the same bytes are judged, matched and forwarded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from mesh.errors import RemoteProtocolError
from mesh.http1.message import CONNECT, Headers, RequestHead
from mesh.model.request import RequestFlag
from mesh.model.routing import NO_FILTERS, RouteKind
from mesh.model.workload import ServiceKey
from mesh.routing import message
from mesh.routing.path import PathRules, normalize_path
from mesh.routing.plan import Answer, AnswerReason, Preference, finish_response, make_plan
from mesh.routing.plan import Forward as RoutePlan
from mesh.routing.table import RouteTable
from waypoint.contract import Origin
from waypoint.resilience.opaque_way import OpaqueRefusal, OpaqueWay
from waypoint.resilience.protected import Protected
from waypoint.resilience.protection import Protection
from waypoint.resilience.retry import rule_of
from waypoint.routing.dependence import Dependence, of_rules
from waypoint.routing.plan import Forward, Reply, Wait
from waypoint.security.authorize import PolicyAuthorizer
from waypoint.security.custom.answer import with_response_headers
from waypoint.security.judgement import Judgement, Later
from waypoint.upstream.endpoints import Endpoints
from waypoint.upstream.target import Group, choose

_FLAG = {AnswerReason.NO_MATCH: RequestFlag.NO_ROUTE}


class RouteRouter:
    """Built anew for every snapshot."""

    def __init__(
        self,
        endpoints: Endpoints,
        table: RouteTable,
        random: Random,
        authorizer: PolicyAuthorizer | None = None,
        path_rules: PathRules | None = None,
        protected: Protected | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._table = table
        self._random = random
        self._authorizer = authorizer
        self._path_rules = path_rules or PathRules()
        self._protected = protected

    def plan(self, origin: Origin, head: RequestHead) -> Forward | Reply | Wait:
        refused = self._normalize(head)
        if refused is not None:
            return refused
        if self._authorizer is None:
            return self._route(origin, head)
        return self._settled(self._authorizer.judge(origin, head), origin, head)

    def _normalize(self, head: RequestHead) -> Reply | None:
        """Settle the path, or say what is wrong with it. CONNECT has none."""
        if head.upgrade == CONNECT:
            return None
        path, mark, query = head.target.decode("latin-1").partition("?")
        try:
            path = normalize_path(path, self._path_rules)
        except RemoteProtocolError as error:
            return Reply(
                status=400,
                text="bad path",
                flag=RequestFlag.DOWNSTREAM_PROTOCOL_ERROR,
                details=f"path_normalization_failed: {error}",
            )
        head.target = f"{path}{mark}{query}".encode("latin-1")
        return None

    def judge_again(
        self,
        origin: Origin,
        head: RequestHead,
        granted: Headers | None,
        before: RouteRouter,
        began_at: float | None,
    ) -> Reply | None:
        """See `waypoint.exchange.open_exchanges.Judge`; `before` allowed the request."""
        refused = self._normalize(head)
        if refused is not None or self._authorizer is None or before._authorizer is None:
            return refused
        return self._authorizer.judge_again(origin, head, granted, before._authorizer, began_at)

    def token_expiry(self, origin: Origin, head: RequestHead) -> float | None:
        """See `waypoint.exchange.open_exchanges.Judge`."""
        if self._authorizer is None:
            return None
        return self._authorizer.token_expiry(origin, head)

    def depends(self, origin: Origin) -> Dependence | None:
        """What of a request its plan depends on; None: on more than can be said."""
        found = self._authorizer.depends(origin) if self._authorizer else Dependence()
        if found is None or origin.service is None:
            return found
        caller = origin.principal.namespace if origin.principal else None
        rules = self._table.rules(origin.service.key, origin.dialled.port, caller)
        return found.joined(of_rules(rules))

    def _settled(
        self, judged: Judgement, origin: Origin, head: RequestHead
    ) -> Forward | Reply | Wait:
        """What follows from what policy said."""
        if isinstance(judged, Reply):
            return judged
        if isinstance(judged, Later):
            begin = judged.begin
            return Wait(
                begin=lambda body, whole, done: begin(
                    body, whole, lambda found: done(self._settled(found, origin, head))
                ),
                body_bytes=judged.body_bytes,
            )
        headers = head.headers
        plan = self._route(origin, head)
        if judged.marks is not None:
            plan = replace(plan, marks=judged.marks)
        if judged.granted and isinstance(plan, Forward):
            plan = replace(plan, granted=headers)
        added = judged.response_headers
        if added is not None and isinstance(plan, Forward):
            plan = replace(plan, finish=_also_setting(plan.finish, added))
        return plan

    def _route(self, origin: Origin, head: RequestHead) -> Forward | Reply:
        path, mark, query = head.target.decode("latin-1").partition("?")
        if origin.service is None:
            return self._to_workload(origin)
        caller = origin.principal.namespace if origin.principal else None
        key, port = origin.service.key, origin.dialled.port
        if self._table.kind(key, port, caller) is None:
            return self._to_service(key, port, origin.dialled.ip.version)
        if head.upgrade != CONNECT:
            return self._routed(origin, head, (path, query if mark else None), caller)
        target, host = head.target, head.host
        plan = self._routed(origin, head, ("/", None), caller)
        head.target, head.host = target, host  # the tunnel's end is the client's choice alone
        return plan

    def _to_workload(self, origin: Origin) -> Forward | Reply:
        if origin.workload is None:
            return _no_cluster(str(origin.dialled))
        workload, address = origin.workload, origin.dialled
        group = self._endpoints.workload(workload, address)
        if self._protected is None:
            return Forward(group=group, steady=True)
        return _directly(group, self._protected.of_workload(workload, address, group))

    def _to_service(self, key: ServiceKey, port: int, family: int) -> Forward | Reply:
        group = self._endpoints.service(key, port, family)
        if group is None:
            return _no_cluster(f"{key}:{port}")
        if self._protected is None:
            return Forward(group=group, steady=True)
        return _directly(group, self._protected.of_service(key, port, family, group))

    def _routed(
        self, origin: Origin, head: RequestHead, target: tuple[str, str | None], caller: str | None
    ) -> Forward | Reply:
        assert origin.service is not None  # routes are of services
        facts = message.RequestFacts(
            service=origin.service.key,
            port=origin.dialled.port,
            caller_namespace=caller,
            head=_to_text(head, target),
        )
        plan = make_plan(self._table, facts, self._random, prefer=self._preference(facts, origin))
        if isinstance(plan, Answer):
            return _answer(plan)
        _from_text(head, plan.head, facts.head)
        return self._forward(plan, facts, origin.dialled.ip.version)

    def _preference(self, facts: message.RequestFacts, origin: Origin) -> Preference | None:
        protected = self._protected
        if protected is None or not protected.knows_sessions:
            return None
        dialled, family = (facts.service, facts.port), origin.dialled.ip.version
        groups = self._endpoints.service
        return lambda rule, head: protected.preferred(rule, head, dialled, family, groups)

    def _forward(
        self, plan: RoutePlan, facts: message.RequestFacts, family: int
    ) -> Forward | Reply:
        group = self._endpoints.service(plan.service, plan.port, family)
        if group is None:
            return _no_cluster(f"{plan.service}:{plan.port}")
        if plan.match is None:
            return Forward(group=group)
        rule = plan.match.rule
        source = rule.source
        own = plan.backend.ref.filters if plan.backend is not None else NO_FILTERS
        plain = source.filters == NO_FILTERS == own
        protection = None
        if self._protected is not None:
            to, dialled = (plan.service, plan.port), (facts.service, facts.port)
            protection = self._protected.of_rule(rule, to, dialled, family, group)
        policy = protection.retry if protection is not None else None
        try_timeout_s = source.timeouts.backend_request_s
        if try_timeout_s is None and policy is not None:
            try_timeout_s = policy.per_try_timeout_s
        return Forward(
            group=group,
            route=f"{rule.route}/{source.name or rule.index}",
            request_timeout_s=source.timeouts.request_s,
            try_timeout_s=try_timeout_s,
            retry=rule_of(source.retry, policy),
            finish=None if plain else lambda status, headers: _finish(plan, status, headers),
            mirrors=tuple(self._mirrors(plan, family)),
            protection=protection,
            steady=plain and len(rule.backends) == 1 and not rule.mirrors and not source.session,
        )

    def _mirrors(self, plan: RoutePlan, family: int) -> list[Group]:
        found = (self._endpoints.service(c.to.service, c.to.port, family) for c in plan.copies)
        return [group for group in found if group is not None]

    def wants_server_name(self, origin: Origin) -> bool:
        """Whether TLSRoutes decide, so that a client's first bytes must be looked at."""
        if origin.service is None:
            return False
        caller = origin.principal.namespace if origin.principal else None
        kind = self._table.kind(origin.service.key, origin.dialled.port, caller)
        return kind is RouteKind.TLS

    def pick_opaque(self, origin: Origin, server_name: str) -> OpaqueWay | OpaqueRefusal | None:
        """An endpoint for a connection that is no HTTP (TLSRoute, TCPRoute, or none)."""
        if self._authorizer is not None and not self._authorizer.admits_opaque(origin):
            return None
        group, protection = None, None
        if origin.service is None:
            plan = self._to_workload(origin)
            if isinstance(plan, Forward):
                group, protection = plan.group, plan.protection
        else:
            group, protection = self._opaque_group(origin, origin.service.key, server_name)
        if group is None:
            return None
        if protection is not None and self._protected is not None:
            return OpaqueWay.under(protection, origin.principal, self._protected.now())
        target = choose(group.targets, self._random, None)
        return OpaqueWay(target) if target is not None else None

    def _opaque_group(
        self, origin: Origin, key: ServiceKey, server_name: str
    ) -> tuple[Group | None, Protection | None]:
        caller = origin.principal.namespace if origin.principal else None
        dialled, family = (key, origin.dialled.port), origin.dialled.ip.version
        found = self._table.match_connection(*dialled, caller, server_name)
        if isinstance(found, str):
            # HTTP routes replace the service's own routing; what is no HTTP matches none of them.
            if self._table.kind(*dialled, caller) is not None:
                return None, None
            group = self._endpoints.service(*dialled, family)
            if group is None or self._protected is None:
                return group, None
            return group, self._protected.of_service(*dialled, family, group)
        backend = found.rule.choose(self._random)
        if backend is None or backend.failure is not None:
            return None, None
        to = (backend.service, backend.port)
        group = self._endpoints.service(*to, family)
        if group is None or self._protected is None:
            return group, None
        return group, self._protected.of_rule(found.rule, to, dialled, family, group)


def _also_setting(
    finish: Callable[[int, Headers], Headers] | None, added: Headers
) -> Callable[[int, Headers], Headers]:
    """Response filters, then the fields that an authorizer sets."""

    def finished(status: int, headers: Headers) -> Headers:
        if finish is not None:
            headers = finish(status, headers)
        return with_response_headers(headers, added)

    return finished


def _to_text(head: RequestHead, target: tuple[str, str | None]) -> message.RequestHead:
    return message.RequestHead(
        method=head.method.decode("latin-1"),
        path=target[0],
        query=target[1],
        authority=head.host.decode("latin-1"),
        headers=tuple([(n.decode("latin-1"), v.decode("latin-1")) for n, v in head.headers]),
    )


def _from_text(head: RequestHead, edited: message.RequestHead, before: message.RequestHead) -> None:
    """Take over what filters changed."""
    if edited is before:
        return
    head.target = edited.target.encode("latin-1")
    head.host = edited.authority.encode("latin-1")
    if edited.headers is not before.headers:
        head.headers = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in edited.headers]


def _finish(plan: RoutePlan, status: int, headers: Headers) -> Headers:
    text = tuple([(n.decode("latin-1"), v.decode("latin-1")) for n, v in headers])
    edited = finish_response(plan, message.ResponseHead(status=status, headers=text))
    return [(n.encode("latin-1"), v.encode("latin-1")) for n, v in edited.headers]


def _answer(plan: Answer) -> Reply:
    fields = plan.head.headers
    match = plan.match
    return Reply(
        status=plan.head.status,
        headers=[(n.encode("latin-1"), v.encode("latin-1")) for n, v in fields],
        flag=_FLAG.get(plan.reason, RequestFlag.NONE),
        details=str(plan.reason),
        route=f"{match.rule.route}/{match.rule.index}" if match else "",
    )


def _directly(group: Group, protection: Protection | None) -> Forward:
    """To a service or workload that no route rules."""
    if protection is None:
        return Forward(group=group, steady=True)
    policy = protection.retry
    return Forward(
        group=group,
        try_timeout_s=policy.per_try_timeout_s if policy else None,
        retry=rule_of(None, policy),
        protection=protection,
        steady=True,
    )


def _no_cluster(name: str) -> Reply:
    return Reply(
        status=503,
        text=f"no destination {name}",
        flag=RequestFlag.NO_CLUSTER,
        details="cluster_not_found",
    )
