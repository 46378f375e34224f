"""Commands that ask a running agent: what people see, what programs see, how they end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.admin.view import (
    BpfDiff,
    CertificateState,
    CertificateStatus,
    DiffEntry,
    DiffKind,
    LogLevel,
    NodeStatus,
    PodState,
)
from mesh.errors import KernelError
from tests.unit.agent.admin.fake import COOKIE, STATUS, FakeNode, running_admin
from tests.unit.agent.cli.invoke import error_of, meshnode

WELL = replace(STATUS, pods=STATUS.pods[:1], problems=())


@pytest.fixture
def node() -> FakeNode:
    return FakeNode(WELL)


@pytest.fixture
def socket(node: FakeNode, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "admin.sock"
    with running_admin(node, path):
        yield path


def line_with(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if word in line)


def test_status_for_people(node: FakeNode, socket: Path) -> None:
    node.state = STATUS
    result = meshnode("status", socket=socket)
    assert "revision 7 (applied)" in line_with(result.stdout, "source:")
    assert line_with(result.stdout, "spiffe://").split()[:3] == ["shop", "cart", "active"]
    assert line_with(result.stdout, "canary").endswith("canary: connection refused")
    assert "2 pods: 0 pending, 1 active, 1 failed" in result.stdout
    assert "a.yaml:3" in line_with(result.stdout, "no IP")
    assert result.exit_code == 1  # a pod failed and an object has an error


def test_status_of_a_healthy_node_ends_with_0(socket: Path) -> None:
    assert meshnode("status", socket=socket).exit_code == 0


@pytest.mark.parametrize(
    "sick", [replace(WELL, not_ready=("no worker",)), replace(WELL, problems=STATUS.problems)]
)
def test_status_of_a_sick_node_ends_with_1(node: FakeNode, socket: Path, sick: NodeStatus) -> None:
    node.state = sick
    assert meshnode("status", socket=socket).exit_code == 1


def test_status_for_programs(socket: Path) -> None:
    body = json.loads(meshnode("status", "-o", "json", socket=socket).stdout)
    assert (body["schema_version"], body["node"]) == (1, "n1")
    assert body["pods"][0]["cookie"] == COOKIE
    assert body["pods"][0]["state"] == PodState.ACTIVE


def test_a_name_cannot_drive_the_terminal(node: FakeNode, socket: Path) -> None:
    evil = replace(WELL.pods[0], reason="\x1b[2J\nforged line")
    node.state = replace(WELL, pods=(evil,))
    out = meshnode("status", socket=socket).stdout
    assert "\\x1b[2J\\nforged line" in out
    assert "\x1b" not in out


def test_certs(node: FakeNode, socket: Path) -> None:
    late = CertificateStatus(
        identity="spiffe://cluster.local/ns/a/sa/b",
        state=CertificateState.EXPIRED,
        not_after=1_600_000_000.0,
        reason="the CA does not answer",
    )
    assert meshnode("certs", socket=socket).exit_code == 0
    node.state = replace(WELL, certificates=(*WELL.certificates, late))
    result = meshnode("certs", socket=socket)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].startswith(late.identity)  # soonest first
    assert "the CA does not answer" in result.stdout
    body = json.loads(meshnode("certs", "-o", "json", socket=socket).stdout)
    assert {one["state"] for one in body["certificates"]} == {"valid", "expired"}


def test_connections(socket: Path) -> None:
    result = meshnode("connections", socket=socket)
    assert "shop/cart" in line_with(result.stdout, "hbone")
    body = json.loads(meshnode("connections", "-o", "json", socket=socket).stdout)
    assert body["connections"][0]["bytes_received"] == 6


def test_config_dump_is_json(socket: Path) -> None:
    body = json.loads(meshnode("config", "dump", socket=socket).stdout)
    assert (body["schema_version"], body["revision"]) == (1, 7)
    assert body["policies"][0]["key"] == "shop/only-cart"


def test_log(node: FakeNode, socket: Path) -> None:
    assert meshnode("log", socket=socket).stdout == "n1: info\n"
    assert meshnode("log", "--level", "debug", socket=socket).stdout == "n1: debug\n"
    assert node.state.log_level is LogLevel.DEBUG
    assert json.loads(meshnode("log", "-o", "json", socket=socket).stdout)["level"] == "debug"


def test_authz_check_allowed(socket: Path) -> None:
    result = meshnode("authz", "check", "shop/cart", "shop/pay", "8080", socket=socket)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == (
        "allowed by AuthorizationPolicy shop/only-cart rule[0] (allow_rule)"
    )
    assert "<--" in line_with(result.stdout, "ALLOW")


def test_authz_check_denied(socket: Path) -> None:
    arguments = ("authz", "check", "shop/old", "shop/pay", "8080")
    result = meshnode(*arguments, socket=socket)
    assert result.exit_code == 1
    assert result.stdout.startswith("denied by AuthorizationPolicy shop/only-cart")
    assert "no identity (plaintext)" in result.stdout
    body = json.loads(meshnode(*arguments, "-o", "json", socket=socket).stdout)
    assert (body["allowed"], body["decision"]) == (False, "no_allow_match")
    assert body["decided_by"]["policy"] == "shop/only-cart"


def test_authz_check_of_an_unknown_name(socket: Path) -> None:
    result = meshnode("authz", "check", "shop/pax", "shop/pay", "80", "-o", "json", socket=socket)
    assert result.exit_code == 1
    assert error_of(result)["code"] == "bad_request"
    assert "did you mean shop/pay" in result.stderr


def test_bpf_diff(node: FakeNode, socket: Path) -> None:
    assert meshnode("bpf", "diff", socket=socket).exit_code == 0
    entry = DiffEntry(map="mn_workload", kind=DiffKind.MISSING, key="10.0.0.1", wanted="class 1")
    node.diff = BpfDiff(node="n1", revision=7, compared=12, entries=(entry,))
    result = meshnode("bpf", "diff", socket=socket)
    assert result.exit_code == 5
    assert line_with(result.stdout, "mn_workload").split()[1] == "missing"
    assert result.stdout.splitlines()[-1] == "1 difference in 12 entries"
    body = json.loads(meshnode("bpf", "diff", "-o", "json", socket=socket).stdout)
    assert body["entries"][0]["kind"] == "missing"


def test_a_failure_in_the_agent_is_told(node: FakeNode, socket: Path) -> None:
    node.diff = KernelError("map mn_workload", 22)
    result = meshnode("bpf", "diff", socket=socket)
    assert result.exit_code == 1
    assert result.stderr == "meshnode: map mn_workload: Invalid argument (errno 22)\n"


ASKING = [
    ("status",),
    ("certs",),
    ("connections",),
    ("config", "dump"),
    ("log",),
    ("authz", "check", "a/b", "c/d", "80"),
    ("bpf", "diff"),
]


@pytest.mark.parametrize("command", ASKING, ids=" ".join)
def test_without_an_agent(command: tuple[str, ...], tmp_path: Path) -> None:
    result = meshnode(*command, socket=tmp_path / "admin.sock")
    assert result.exit_code == 2
    assert result.stdout == "" or json.loads(result.stdout)["error"]["code"] == "not_running"
    assert result.stderr.count("\n") == 1
    assert "no agent is running for node n1; start it with `meshnode agent`" in result.stderr


def test_without_an_agent_for_programs(tmp_path: Path) -> None:
    result = meshnode("status", "-o", "json", socket=tmp_path / "admin.sock")
    assert (result.exit_code, error_of(result)["code"]) == (2, "not_running")


def test_status_survives_an_empty_node(node: FakeNode, socket: Path) -> None:
    node.state = NodeStatus(
        node="n1", version="0", pid=1, started_at=0, source="file:x", revision=0, applied_revision=0
    )
    result = meshnode("status", socket=socket)
    assert (result.exit_code, "0 pods" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    "command",
    [
        ("stat",),
        ("edges",),
        ("top", "--once"),
        ("tap",),
        ("describe", "pod", "shop/cart"),
        ("routes", "shop/payments"),
        ("analyze",),
        ("bpf", "monitor"),
        ("config", "diff"),
    ],
    ids=" ".join,
)
def test_watching_without_an_agent(command: tuple[str, ...], tmp_path: Path) -> None:
    result = meshnode(*command, socket=tmp_path / "admin.sock")
    assert result.exit_code == 2, result.stderr
    assert "no agent is running for node" in result.stderr
