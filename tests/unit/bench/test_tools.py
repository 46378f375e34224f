"""The load generator against its server, on loopback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bench.tools import compile_tool
from tests.lab.system import eventually
from tests.support.processes import free_port


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    for name in ("load", "serve", "spin"):
        compile_tool(name, folder)
    return folder


@pytest.fixture(scope="module")
def port(tools: Path) -> Iterator[int]:
    free = free_port()
    with subprocess.Popen([str(tools / "serve"), str(free)]) as server:
        try:
            eventually(lambda: listens(free), 30.0, "the server listens")
            yield free
        finally:
            server.terminate()


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def web(tools: Path) -> Iterator[int]:
    for name in ("http_load", "http_serve"):
        compile_tool(name, tools, libraries=("nghttp2",))
    free = free_port()
    with subprocess.Popen([str(tools / "http_serve"), str(free)]) as server:
        try:
            eventually(lambda: listens(free), 30.0, "the server listens")
            yield free
        finally:
            server.terminate()


def load(tools: Path, kind: str, address: str, port: int, *rest: str) -> Mapping[str, float]:
    argv = [str(tools / "load"), kind, address, str(port), *rest]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20)
    values: dict[str, float] = json.loads(done.stdout)
    return values


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("size", ["1", "65536"])
def test_round_trips(tools: Path, port: int, address: str, size: str) -> None:
    said = load(tools, "rtt", address, port, size, "0.05")
    assert said["count"] > 1
    assert 0 < said["min_us"] <= said["p50_us"] <= said["p99_us"] <= said["max_us"]


def test_connects_end_at_the_count(tools: Path, port: int) -> None:
    said = load(tools, "connect", "127.0.0.1", port, "4", "10", "50")
    assert (said["count"], said["failed"]) == (50, 0)
    assert said["per_s"] > 0


def test_connects_end_at_the_time(tools: Path, port: int) -> None:
    said = load(tools, "connect", "127.0.0.1", port, "4", "0.05", "1000000000")
    assert 0 < said["count"] < 1_000_000_000


def test_a_flow_counts_what_arrived(tools: Path, port: int) -> None:
    said = load(tools, "flow", "127.0.0.1", port, "3", "0.05")
    assert said["bytes"] > 3 * 128 * 1024
    assert said["gbit_per_s"] == pytest.approx(said["bytes"] * 8 / said["seconds"] / 1e9, rel=0.01)


def test_idle_connections_are_held_until_a_signal(tools: Path, port: int) -> None:
    argv = [str(tools / "load"), "idle", "127.0.0.1", str(port), "20"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert json.loads(holder.stdout.readline()) == {"open": 20}
        assert holder.poll() is None
        holder.terminate()
        assert holder.wait(30.0) == -signal.SIGTERM


def test_nobody_listening_is_a_failure_not_a_number(tools: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # Bound and not listening: connections are refused.
        argv = [str(tools / "load"), "rtt", "127.0.0.1", str(sock.getsockname()[1]), "1", "1"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout) == (1, "")
    assert "connect" in done.stderr


def test_a_build_is_used_again_until_the_source_changes(tmp_path: Path) -> None:
    built = compile_tool("spin", tmp_path)
    before = built.stat().st_mtime_ns
    assert compile_tool("spin", tmp_path).stat().st_mtime_ns == before


CALL = ("content-type", "application/grpc", "te", "trailers")


@pytest.mark.parametrize(
    ("options", "path", "headers"),
    [
        ("-c 2", "/api", ("Cookie", "a=b")),
        ("-c 2", "/bytes/100000", ()),
        ("-2 -c 2 -m 3", "/api", ("Cookie", "a=b")),
        ("-2 -c 2", "/bytes/100000", ()),
        ("-2 -c 2 -m 2 -b 70000", "/bench.Echo/Call", CALL),
        ("-2 -c 2 -m 2 -p 500", "/bench.Echo/Stream", CALL),
    ],
)
def test_requests_follow_answers(
    tools: Path, web: int, options: str, path: str, headers: tuple[str, ...]
) -> None:
    said = http_load(tools, *options.split(), "-w", "0.02", "-s", "0.1", *at(web, path), *headers)
    assert said["answered"] > 2
    assert 0 < said["p50_us"] <= said["p99_us"] <= said["p999_us"]


@pytest.mark.parametrize("version", [(), ("-2",)])
def test_requests_have_their_instants(tools: Path, web: int, version: tuple[str, ...]) -> None:
    said = http_load(tools, *version, "-c", "4", "-r", "500", "-s", "0.2", *at(web, "/api"))
    assert said["answered"] == 100


def test_what_waits_for_its_turn_counts_from_its_instant(tools: Path, web: int) -> None:
    """Far more than one connection can ask: most have waited for many others."""
    asked = ("-c", "1", "-r", "1000000", "-s", "0.003")
    said = http_load(tools, *asked, *at(web, "/bytes/20000"))
    assert said["answered"] == 3_000
    assert said["p50_us"] > 1_000  # one alone takes a hundredth


def test_an_answer_that_is_no_success_is_a_failure(tools: Path, web: int) -> None:
    argv = [str(tools / "http_load"), "-2", "-s", "0.1", "-b", "10", *at(web, "/missing-grpc")]
    refused = subprocess.run([*argv, "bad header", "x"], capture_output=True, timeout=20)
    assert refused.returncode == 1


def at(port: int, path: str) -> tuple[str, ...]:
    return ("127.0.0.1", str(port), path)


def http_load(tools: Path, *argv: str) -> Mapping[str, float]:
    done = subprocess.run(
        [str(tools / "http_load"), *argv], capture_output=True, text=True, check=True, timeout=30
    )
    values: dict[str, float] = json.loads(done.stdout)
    return values
