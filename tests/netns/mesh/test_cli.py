"""The `meshnode` command against a running mesh: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.capture import pins
from agent.paths import NodePaths
from tests.lab import Result, eventually
from tests.lab.objects import authorization_policy, service_object
from tests.netns.mesh.world import Mesh, last_answer

pytestmark = pytest.mark.root

VIP = "10.96.3.1"
RULES = [{"from": [{"source": {"principals": ["*/sa/client"]}}]}]


@pytest.fixture(scope="module")
def busy(mesh: Mesh) -> Iterator[Mesh]:
    """A mesh with a service, a policy, traffic, and one denial."""
    mesh.apply(
        "service",
        service_object(
            "default", "web", cluster_ips=[VIP], port=80, target_port=7000, selector={"app": "near"}
        ),
    )
    mesh.apply(
        "refuse-client",
        authorization_policy(
            "default", "refuse-client", action="DENY", selector={"app": "near"}, rules=RULES
        ),
    )
    assert mesh.dial("client", "far")["server"] == "far"
    assert mesh.dial("far", "near")["server"] == "near"
    assert mesh.dial("client", "near")["error"] == "ECONNREFUSED"
    assert mesh.dial("near", "client")["server"] == "client"
    connection = mesh.open("far", "client")
    yield mesh
    connection.kill()
    for name in ("service", "refuse-client"):
        mesh.delete(name)


def table(mesh: Mesh, *arguments: str) -> str:
    return mesh.a.meshnode(*arguments).check().stdout


def as_json(result: Result) -> dict[str, object]:
    answer = last_answer(json.dumps(json.loads(result.stdout)))
    assert "schema_version" in answer, answer
    return dict(answer)


TABLES = {
    "status": ("client", "near", "active", "revision"),
    "certs": ("cluster.local/ns/default/sa/client", "valid"),
    "connections": ("pod/default/far", "hbone"),
    "log": ("info",),
    "bpf maps": ("mn_verdict", "mn_flow"),
    "bpf progs": ("mn_connect4", "mn_sk_lookup"),
    "bpf links": ("mn_connect4", "mn_sk_lookup"),
    "bpf enrolled": ("client", "near"),
    "bpf identity": ("10.40.1.2", "10.40.2.2"),
    "bpf policy": ("deny", "allow"),
    "bpf service": (VIP,),
    "bpf stats": ("near",),
    "bpf drops": ("deny_policy",),
}
"""Command, and what its table must mention, in any case of letters."""


@pytest.mark.parametrize("command", TABLES)
def test_a_table_and_json(busy: Mesh, command: str) -> None:
    def mentioned() -> bool:
        text = table(busy, *command.split()).lower()
        missing = [word for word in TABLES[command] if word.lower() not in text]
        assert not missing, f"no {missing} in:\n{text}"
        return True

    with ThreadPoolExecutor(1) as beside:
        said = beside.submit(busy.a.meshnode, *command.split(), "-o", "json")
        eventually(mentioned, 30.0, f"meshnode {command}")
        as_json(said.result().check())


def test_the_config_is_always_json(busy: Mesh) -> None:
    dump = busy.a.meshnode("config", "dump").check()
    as_json(dump)
    for word in ("default/web", "default/refuse-client", "pod/default/far"):
        assert word in dump.stdout


@pytest.mark.parametrize("command", ["bpf diff", "bpf fsck", "check"])
def test_all_is_well(busy: Mesh, command: str) -> None:
    with ThreadPoolExecutor(1) as beside:
        said = beside.submit(busy.b.meshnode, *command.split(), "-o", "json")
        result = busy.a.meshnode(*command.split())
        assert result.status == 0, result.stdout + result.stderr
        as_json(said.result().check())


def test_a_missing_entry_is_a_difference(busy: Mesh) -> None:
    with pins.open_map(NodePaths(busy.a.name), "mn_verdict") as verdicts:
        key, value = next(iter(verdicts.items()))
        verdicts.delete(key)
        try:
            result = busy.a.meshnode("bpf", "diff")
        finally:
            verdicts.update(key, value)
    assert (result.status, "mn_verdict" in result.stdout) == (5, True), result.stdout
    assert busy.a.meshnode("bpf", "diff").status == 0


def test_the_log_level_changes_and_back(busy: Mesh) -> None:
    for level in ("debug", "info"):
        busy.a.meshnode("log", "--level", level).check()
        assert level in table(busy, "log")


@pytest.mark.parametrize(
    ("src", "dst", "allowed"),
    [("client", "near", False), ("client", "far", True), ("far", "near", True)],
)
def test_authz_check_says_what_happens(busy: Mesh, src: str, dst: str, allowed: bool) -> None:
    question = ("authz", "check", f"default/{src}", f"default/{dst}", "7000")
    with ThreadPoolExecutor(1) as beside:
        said = beside.submit(busy.a.meshnode, *question, "-o", "json")
        result = busy.a.meshnode(*question)
        answer = as_json(said.result())
    assert answer["allowed"] is allowed
    assert ("server" in busy.dial(src, dst)) is allowed
    if not allowed:
        assert "default/refuse-client" in result.stdout
        assert "rule[0]" in result.stdout
        assert "default/refuse-client" in json.dumps(answer["decided_by"])
    assert result.status == (0 if allowed else 1)
