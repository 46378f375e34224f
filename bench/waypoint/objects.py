"""What both proxies are configured with: one service, twenty routes, one policy."""

from __future__ import annotations

from mesh.model.address import parse_ip
from mesh.model.identity import SpiffeId
from mesh.model.policy import (
    AuthorizationPolicy,
    L4Match,
    PolicyAction,
    PolicyKey,
    PolicyScope,
    PolicyTarget,
    RequestMatch,
    Rule,
    StringMatch,
    TargetKind,
)
from mesh.model.routing import (
    BackendRef,
    BackendTarget,
    HttpMatch,
    ParentRef,
    PathMatch,
    PathMatchType,
    Route,
    RouteKey,
    RouteKind,
    RouteRule,
    ValueMatch,
)
from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import (
    Endpoint,
    Service,
    ServiceKey,
    ServicePort,
    Workload,
    WorkloadUid,
)

NAMESPACE = "shop"
WAYPOINT = "shop/wp"
HOST = "127.0.0.1"
CALLER = SpiffeId(trust_domain="cluster.local", namespace=NAMESPACE, service_account="client")
OWN = SpiffeId(trust_domain="cluster.local", namespace=NAMESPACE, service_account="waypoint")
SERVER = SpiffeId(trust_domain="cluster.local", namespace=NAMESPACE, service_account="server")
ROUTES = 20
PREFIXES = ("/bytes", "/api", "/bench.Echo")
"""What the load asks for; the other routes are beside the way."""
METHODS = ("GET", "POST")
DENIED = ("/admin", "/internal")
ADDRESSES = {80: "10.96.0.1", 81: "10.96.0.2"}
"""Ports of the service towards the server: HTTP/1.1 and HTTP/2."""


def snapshot(upstream: int, pod: Workload | None = None) -> MeshSnapshot:
    """Everything a worker knows of the mesh; with `pod` the server is in the mesh."""
    services = [_service(port, upstream, pod) for port in ADDRESSES]
    routes = [route for port in ADDRESSES for route in _routes(port)]
    policies = [_allow(), _deny()]
    return MeshSnapshot(
        revision=1,
        services={service.key: service for service in services},
        routes={route.key: route for route in routes},
        policies={policy.key: policy for policy in policies},
        workloads={pod.uid: pod} if pod else {},
    )


def server_pod(address: str) -> Workload:
    """The server as a pod whose HBONE listener is at `address`."""
    return Workload(
        uid=WorkloadUid("server"),
        name="server",
        namespace=NAMESPACE,
        service_account=SERVER.service_account,
        trust_domain=SERVER.trust_domain,
        node="b",
        addresses=(parse_ip(address),),
        enrolled=True,
    )


def service_key(port: int) -> ServiceKey:
    """The service whose port is `port`."""
    return ServiceKey(f"{NAMESPACE}/web{port}")


def _service(port: int, upstream: int, pod: Workload | None) -> Service:
    address = pod.addresses[0] if pod else parse_ip(HOST)
    workload = pod.uid if pod else None
    return Service(
        key=service_key(port),
        name=f"web{port}",
        namespace=NAMESPACE,
        hostname=f"web{port}.{NAMESPACE}",
        addresses=(parse_ip(ADDRESSES[port]),),
        ports=(ServicePort(port=port, app_protocol="kubernetes.io/h2c" if port == 81 else "http"),),
        endpoints=(Endpoint(address=address, workload=workload, ports={port: upstream}),),
        waypoint=WAYPOINT,
    )


def _routes(port: int) -> list[Route]:
    found = [
        _route(port, f"other{number:02}", HttpMatch(path=path, headers=headers))
        for number in range(ROUTES - len(PREFIXES))
        for path, headers in [
            (
                PathMatch(kind=PathMatchType.PREFIX, value=f"/other/{number}"),
                (ValueMatch(name="x-tenant", value=f"t{number}"),) if number % 3 == 0 else (),
            )
        ]
    ]
    for number, prefix in enumerate(PREFIXES):
        path = PathMatch(kind=PathMatchType.PREFIX, value=prefix)
        found.append(_route(port, f"load{number}", HttpMatch(path=path)))
    return found


def _route(port: int, name: str, match: HttpMatch) -> Route:
    service = f"web{port}"
    target = BackendTarget(name=service, namespace=NAMESPACE, port=port)
    return Route(
        key=RouteKey(f"HTTPRoute/{NAMESPACE}/{service}-{name}"),
        kind=RouteKind.HTTP,
        namespace=NAMESPACE,
        name=f"{service}-{name}",
        parents=(ParentRef(name=service, namespace=NAMESPACE),),
        rules=(RouteRule(matches=(match,), backends=(BackendRef(target=target),)),),
    )


def _policy(name: str, action: PolicyAction, request: RequestMatch) -> AuthorizationPolicy:
    source = StringMatch(kind="exact", value=str(CALLER).removeprefix("spiffe://"))
    sources = (L4Match(principals=(source,)),) if action is PolicyAction.ALLOW else ()
    return AuthorizationPolicy(
        key=PolicyKey(f"{NAMESPACE}/{name}"),
        namespace=NAMESPACE,
        name=name,
        scope=PolicyScope.TARGET,
        action=action,
        rules=(Rule(sources=sources, operations=(L4Match(request=request),)),),
        targets=(PolicyTarget(kind=TargetKind.GATEWAY, namespace=NAMESPACE, name="wp"),),
    )


def _allow() -> AuthorizationPolicy:
    methods = tuple(StringMatch(kind="exact", value=method) for method in METHODS)
    return _policy("allow-client", PolicyAction.ALLOW, RequestMatch(methods=methods))


def _deny() -> AuthorizationPolicy:
    paths = tuple(StringMatch(kind="prefix", value=path) for path in DENIED)
    return _policy("deny-admin", PolicyAction.DENY, RequestMatch(paths=paths))
