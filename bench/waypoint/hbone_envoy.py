"""Envoy as a waypoint: CONNECT ended, requests routed, CONNECT begun, by internal listeners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.waypoint.objects import ADDRESSES, CALLER, SERVER
from bench.waypoint.peers import http_cluster, http_manager
from mesh.model.credentials import Credentials
from tests.interop.envoy import Json, tls_context, typed

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_TLS = "envoy.extensions.transport_sockets.tls.v3"
_INTERNAL = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
_TUNNEL, _BEGIN = "tunnel", "begin"


@dataclass(frozen=True, slots=True, kw_only=True)
class HboneSide:
    """Where it listens and leads; `application` is what it asks the server's side for."""

    listen: tuple[str, int]
    server: tuple[str, int]
    application: str
    credentials: Credentials


def hbone_config(side: HboneSide, folder: Path) -> Json:
    """Policy, routes and header fields as without tunnels; one identity on either side."""
    inner = {port: f"inner{port}" for port in ADDRESSES}
    begin = typed(
        _TCP_PROXY,
        stat_prefix=_BEGIN,
        cluster=_TUNNEL,
        tunneling_config={"hostname": side.application},
    )
    listeners = [
        _ending(side, inner, folder),
        *(_internal(name, http_manager(f"web{port}")) for port, name in inner.items()),
        _internal(_BEGIN, {"name": "tcp", "typed_config": begin}),
    ]
    clusters = [
        *(_to_internal(name) for name in inner.values()),
        *(
            http_cluster(f"web{port}", _internal_address(_BEGIN), http2=port == 81)
            for port in inner
        ),
        _beginning(side, folder),
    ]
    extension = {"name": "envoy.bootstrap.internal_listener", "typed_config": typed(_INTERNAL)}
    return {
        "bootstrap_extensions": [extension],
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def _ending(side: HboneSide, inner: Mapping[int, str], folder: Path) -> Json:
    """mTLS and CONNECT in; what is asked for decides which service the requests are for."""
    tls = tls_context(side.credentials, [CALLER], folder)
    context = typed(
        f"{_TLS}.DownstreamTlsContext", common_tls_context=tls, require_client_certificate=True
    )
    hosts = [
        {"name": name, "domains": [f"{ADDRESSES[port]}:{port}"], "routes": [_connect(name)]}
        for port, name in inner.items()
    ]
    manager = typed(
        _HCM,
        stat_prefix="ending",
        stream_idle_timeout="0s",
        route_config={"virtual_hosts": hosts},
        http_filters=[{"name": "router", "typed_config": typed(_ROUTER)}],
        http2_protocol_options={"allow_connect": True},
        upgrade_configs=[{"upgrade_type": "CONNECT"}],
    )
    chain = {
        "filters": [{"name": "http", "typed_config": manager}],
        "transport_socket": {"name": "tls", "typed_config": context},
    }
    return {"name": "ending", "address": _address(side.listen), "filter_chains": [chain]}


def _connect(cluster: str) -> Json:
    upgrade = {"upgrade_type": "CONNECT", "connect_config": {}}
    action = {"cluster": cluster, "timeout": "0s", "upgrade_configs": [upgrade]}
    return {"match": {"connect_matcher": {}}, "route": action}


def _internal(name: str, network_filter: Json) -> Json:
    return {
        "name": name,
        "internal_listener": {},
        "filter_chains": [{"filters": [network_filter]}],
    }


def _internal_address(listener: str) -> Json:
    return {"envoy_internal_address": {"server_listener_name": listener}}


def _to_internal(listener: str) -> Json:
    return _cluster(listener, _internal_address(listener), {})


def _beginning(side: HboneSide, folder: Path) -> Json:
    """CONNECT and mTLS out."""
    outward = folder / "out"
    outward.mkdir()
    tls = tls_context(side.credentials, [SERVER], outward)
    context = typed(f"{_TLS}.UpstreamTlsContext", common_tls_context=tls)
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = typed(options, explicit_http_config={"http2_protocol_options": {}})
    more: Json = {
        "transport_socket": {"name": "tls", "typed_config": context},
        "typed_extension_protocol_options": {options: http2},
    }
    return _cluster(_TUNNEL, _address(side.server), more)


def _cluster(name: str, where: Json, more: Json) -> Json:
    limits = ("max_connections", "max_pending_requests", "max_requests")
    endpoint = {"endpoint": {"address": where}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [dict.fromkeys(limits, 1_000_000)]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        **more,
    }


def _address(where: tuple[str, int]) -> Json:
    return {"socket_address": {"address": where[0], "port_value": where[1]}}
