"""The admin socket over a real unix socket, and the metrics port over real TCP."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from agent.admin.client import AdminClient, AgentNotRunning, AgentRefused
from agent.admin.codec import to_plain
from agent.admin.question import AuthzQuestion
from agent.admin.server import serve_admin, serve_metrics
from agent.admin.view import BpfDiff, DiffEntry, DiffKind, LogLevel, NodeView
from mesh.errors import ConfigError, KernelError
from mesh.model.address import SocketAddress, parse_socket_address
from tests.unit.agent.admin.fake import COOKIE, STATUS, FakeNode, running_admin


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


def client(path: Path) -> AdminClient:
    return AdminClient("n1", path, timeout_s=5)


def raw(path: Path, request: bytes) -> tuple[int, dict[str, object]]:
    """Send bytes as they are; return the status and the JSON body."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        sock.connect(str(path))
        sock.sendall(request)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_status_arrives_as_it_was_given(socket_path: Path) -> None:
    with running_admin(FakeNode(), socket_path):
        assert client(socket_path).status() == STATUS


def test_a_cookie_keeps_all_its_digits() -> None:
    plain = json.loads(json.dumps(to_plain(STATUS)))
    assert plain["pods"][0]["cookie"] == COOKIE
    assert plain["schema_version"] == 1


def test_the_socket_is_roots_alone_and_is_gone_afterwards(socket_path: Path) -> None:
    with running_admin(FakeNode(), socket_path):
        assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
    assert not socket_path.exists()


def test_a_socket_left_by_a_killed_node_is_replaced(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(str(socket_path))
    with running_admin(FakeNode(), socket_path):
        assert client(socket_path).status().node == "n1"


def test_another_file_in_the_way_is_not_removed(socket_path: Path) -> None:
    socket_path.write_text("precious")

    async def serve() -> None:
        async with serve_admin(FakeNode(), socket_path):
            pass

    with pytest.raises(ConfigError, match="admin socket"):
        asyncio.run(serve())
    assert socket_path.read_text() == "precious"


def test_config_holds_the_objects_sorted(socket_path: Path) -> None:
    with running_admin(FakeNode(), socket_path):
        config = client(socket_path).config()
    assert config["revision"] == 7
    workloads = config["workloads"]
    assert isinstance(workloads, list)
    assert [w["uid"] for w in workloads] == ["pod/shop/cart", "pod/shop/old", "pod/shop/pay"]
    assert workloads[2]["addresses"] == ["fd00::2"]


def test_certificates_and_connections(socket_path: Path) -> None:
    with running_admin(FakeNode(), socket_path):
        assert client(socket_path).certificates().certificates == STATUS.certificates
        [connection] = client(socket_path).connections().connections
    assert (connection.src, connection.bytes_received) == ("shop/cart", 6)


def test_the_log_level_changes_live(socket_path: Path) -> None:
    node = FakeNode()
    with running_admin(node, socket_path):
        assert client(socket_path).log().level is LogLevel.INFO
        assert client(socket_path).set_log(LogLevel.DEBUG).level is LogLevel.DEBUG
    assert node.state.log_level is LogLevel.DEBUG


def test_authz_names_the_rule(socket_path: Path) -> None:
    with running_admin(FakeNode(), socket_path):
        answer = client(socket_path).authz(
            AuthzQuestion(src="shop/cart", dst="shop/pay", port=8080)
        )
    assert answer.allowed
    assert str(answer.decided_by) == "AuthorizationPolicy shop/only-cart rule[0]"


def test_a_difference_is_carried(socket_path: Path) -> None:
    entry = DiffEntry(map="mn_workload", kind=DiffKind.MISSING, key="10.0.0.1", wanted="class 1")
    diff = BpfDiff(node="n1", revision=7, compared=3, entries=(entry,))
    with running_admin(FakeNode(diff=diff), socket_path):
        assert client(socket_path).bpf_diff() == diff


def test_a_kernel_error_is_an_answer_with_a_hint(socket_path: Path) -> None:
    node = FakeNode(diff=KernelError("map mn_workload", 2, "Start the agent."))
    with running_admin(node, socket_path), pytest.raises(AgentRefused) as caught:
        client(socket_path).bpf_diff()
    assert caught.value.code == "kernel"
    assert str(caught.value) == (
        "map mn_workload: No such file or directory (errno 2). Start the agent."
    )


def test_a_bad_question_is_refused(socket_path: Path) -> None:
    question = AuthzQuestion(src="shop/cart", dst="shop/pax", port=80)
    with running_admin(FakeNode(), socket_path), pytest.raises(AgentRefused) as caught:
        client(socket_path).authz(question)
    assert caught.value.code == "bad_request"
    assert "did you mean shop/pay" in str(caught.value)


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET /v1/nothing HTTP/1.0\r\n\r\n", 404, "not_found"),
        (b"DELETE /v1/log HTTP/1.0\r\n\r\n", 405, "method_not_allowed"),
        (b"POST /v1/log HTTP/1.0\r\nContent-Length: 3\r\n\r\nxyz", 400, "bad_request"),
        (
            b'POST /v1/log HTTP/1.0\r\nContent-Length: 16\r\n\r\n{"level":"loud"}',
            400,
            "bad_request",
        ),
    ],
)
def test_errors_are_json(socket_path: Path, request_bytes: bytes, status: int, code: str) -> None:
    with running_admin(FakeNode(), socket_path):
        got, body = raw(socket_path, request_bytes)
    error = body["error"]
    assert isinstance(error, dict)
    assert (got, error["code"]) == (status, code)


def test_a_body_beyond_the_limit_is_refused(socket_path: Path) -> None:
    body = b"x" * 70_000
    request = b"POST /v1/log HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with running_admin(FakeNode(), socket_path):
        status, _ = raw(socket_path, request)
    assert status == 413


def test_without_an_agent_the_client_says_so(socket_path: Path) -> None:
    with pytest.raises(AgentNotRunning, match="node n1"):
        client(socket_path).status()


def fetch(
    view: NodeView, path: str, registry: CollectorRegistry | None = None
) -> tuple[int, str, dict[str, str]]:
    """Serve the metrics port, ask it once."""

    def ask(address: SocketAddress) -> tuple[int, str, dict[str, str]]:
        connection = HTTPConnection(str(address.ip), address.port, timeout=5)
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text, dict(response.getheaders())

    async def run() -> tuple[int, str, dict[str, str]]:
        any_port = SocketAddress(parse_socket_address("127.0.0.1:1").ip, 0)
        async with serve_metrics(view, registry or CollectorRegistry(), any_port) as address:
            return await asyncio.to_thread(ask, address)

    return asyncio.run(run())


def test_metrics_are_served() -> None:
    registry = CollectorRegistry()
    Counter("meshnode_probe", "A counter.", registry=registry).inc(3)
    status, text, headers = fetch(FakeNode(), "/metrics", registry)
    assert status == 200
    assert "meshnode_probe_total 3.0" in text
    assert headers["Content-Type"].startswith("text/plain; version=")


def test_health() -> None:
    unready = FakeNode(replace(STATUS, not_ready=("no worker is ready", "no certificate yet")))
    assert fetch(FakeNode(), "/healthz/ready")[:2] == (200, "ready\n")
    assert fetch(unready, "/healthz/ready")[:2] == (503, "no worker is ready\nno certificate yet\n")
    assert fetch(unready, "/healthz/live")[0] == 200


def test_the_metrics_port_shows_nothing_else() -> None:
    assert fetch(FakeNode(), "/v1/status")[0] == 404


def test_a_taken_metrics_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = SocketAddress(parse_socket_address("127.0.0.1:1").ip, taken.getsockname()[1])

        async def serve() -> None:
            async with serve_metrics(FakeNode(), CollectorRegistry(), address):
                pass

        with pytest.raises(ConfigError, match=f"metrics address {address}.*--metrics"):
            asyncio.run(serve())
