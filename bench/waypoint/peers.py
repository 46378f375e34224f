"""Envoy, nginx and HAProxy with the routes, the policy and the header fields of our worker."""

from __future__ import annotations

from collections.abc import Mapping

from bench.waypoint.objects import CALLER, DENIED, HOST, METHODS, PREFIXES, ROUTES
from tests.interop.envoy import Json, address, typed

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_UNLIMITED = 1_000_000


def envoy_config(upstream: int, ports: Mapping[int, int]) -> Json:
    """As a waypoint: policy, routes, request id, forwarding fields; no access log."""
    clusters = [_cluster(f"web{port}", upstream, http2=port == 81) for port in ports]
    listeners = [_listener(f"web{port}", own) for port, own in ports.items()]
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


def _listener(cluster: str, port: int) -> Json:
    chain = {"filters": [http_manager(cluster)]}
    return {"name": cluster, "address": address(port), "filter_chains": [chain]}


def http_manager(cluster: str) -> Json:
    """The filter that serves HTTP: policy, routes to one cluster, header fields."""
    manager = typed(
        _HCM,
        stat_prefix=cluster,
        codec_type="AUTO",
        use_remote_address=True,
        normalize_path=True,
        merge_slashes=True,
        stream_idle_timeout="0s",
        route_config={
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": _routes(cluster),
                    "request_headers_to_add": [
                        {
                            "header": {
                                "key": "x-forwarded-client-cert",
                                "value": f"URI={CALLER}",
                            },
                            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                        }
                    ],
                }
            ]
        },
        http_filters=[
            {"name": "allow", "typed_config": typed(_RBAC, rules=_allow())},
            {"name": "deny", "typed_config": typed(_RBAC, rules=_deny())},
            {"name": "router", "typed_config": typed(_ROUTER)},
        ],
    )
    return {"name": "http", "typed_config": manager}


def _routes(cluster: str) -> list[Json]:
    action = {"cluster": cluster, "timeout": "0s"}
    routes: list[Json] = []
    for number in range(ROUTES - len(PREFIXES)):
        match: dict[str, object] = {"path_separated_prefix": f"/other/{number}"}
        if number % 3 == 0:
            exact = {"exact": f"t{number}"}
            match["headers"] = [{"name": "x-tenant", "string_match": exact}]
        routes.append({"match": match, "route": action})
    wanted = [{"match": {"path_separated_prefix": prefix}, "route": action} for prefix in PREFIXES]
    return [*routes, *wanted]


def _allow() -> Json:
    permissions = [
        {"header": {"name": ":method", "string_match": {"exact": method}}} for method in METHODS
    ]
    policy = {"permissions": permissions, "principals": [{"any": True}]}
    return {"action": "ALLOW", "policies": {"allow-client": policy}}


def _deny() -> Json:
    permissions = [{"url_path": {"path": {"prefix": path}}} for path in DENIED]
    policy = {"permissions": permissions, "principals": [{"any": True}]}
    return {"action": "DENY", "policies": {"deny-admin": policy}}


def _cluster(name: str, upstream: int, *, http2: bool) -> Json:
    return http_cluster(name, address(upstream), http2=http2)


def http_cluster(name: str, where: Json, *, http2: bool) -> Json:
    """The server behind, with circuit breakers lifted."""
    version: Json = {"http2_protocol_options" if http2 else "http_protocol_options": {}}
    limits = ("max_connections", "max_pending_requests", "max_requests")
    endpoint = {"endpoint": {"address": where}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [dict.fromkeys(limits, _UNLIMITED)]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            _OPTIONS: typed(_OPTIONS, explicit_http_config=version)
        },
    }


def nginx_config(upstream: int, port: int) -> str:
    """HTTP/1.1 only; one worker, prefixes as locations, no policy, no metrics."""
    locations = [f"/other/{number}/" for number in range(ROUTES - len(PREFIXES))]
    blocks = "\n".join(
        f"location {prefix} {{ proxy_pass http://web; }}" for prefix in (*locations, *PREFIXES)
    )
    return f"""
daemon off; worker_processes 1; pid nginx.pid; error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 3600s;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
  proxy_set_header X-Request-Id $request_id;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  proxy_set_header X-Forwarded-Client-Cert "URI={CALLER}";
  upstream web {{ server {HOST}:{upstream}; keepalive 512; keepalive_requests 100000000; }}
  server {{ listen {HOST}:{port} backlog=4096; {blocks} location / {{ return 404; }} }}
}}
"""


def haproxy_config(upstream: int, ports: Mapping[int, int]) -> str:
    """HTTP/1.1 and HTTP/2; one thread, prefixes as rules, the methods and paths of the policy."""
    others = [f"/other/{number}/" for number in range(ROUTES - len(PREFIXES))]
    rules = "\n".join(
        f"  use_backend web{{port}} if {{{{ path_beg {prefix} }}}}"
        for prefix in (*others, *PREFIXES)
    )
    fronts = [
        f"""
frontend front{port}
  bind {HOST}:{own}{" proto h2" if port == 81 else ""}
  http-request deny if !{{ method {" ".join(METHODS)} }}
  http-request deny if {{ path_beg {" ".join(DENIED)} }}
  http-request set-header x-request-id %[uuid()]
  http-request set-header x-forwarded-client-cert URI={CALLER}
  option forwardfor
{rules.format(port=port)}
backend web{port}
  http-reuse always
  server web {HOST}:{upstream}{" proto h2" if port == 81 else ""}
"""
        for port, own in ports.items()
    ]
    return _HAPROXY + "".join(fronts)


_HAPROXY = """
global
  nbthread 1
  maxconn 9000
  tune.h2.max-concurrent-streams 1000
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
"""
