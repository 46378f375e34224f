"""A cluster seen from a laptop: pods found by the API, asked through forwarded ports, merged."""

from __future__ import annotations

import json
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import Result

from agent.admin.view import NodeStatus
from agent.cli.reach.nodes import Nodes
from agent.cli.stat import EdgesAnswer, StatAnswer
from installer.rbac import VIEWER
from mesh.run_files import OPERATOR, VIEW_PORT
from mesh.telemetry.window_feed import RecentTraffic
from tests.browser.world import edge, requests
from tests.kube.accounts import open_gate_to, serve_accounts
from tests.kube.test_people_commands import Cluster, running
from tests.kube.test_rbac import allowed, permissions_of
from tests.unit.agent.admin.fake import COOKIE, STATUS, FakeNode, running_view
from tests.unit.agent.cli.invoke import error_of, meshnode
from tests.unit.mesh.telemetry.records import BASE

MESH = "meshnode-system"
GATE = {
    "gateway.networking.k8s.io/gateway-class-name": "meshnode-waypoint",
    "gateway.networking.k8s.io/gateway-name": "gate",
}


def pod(
    name: str, namespace: str, node: str, labels: dict[str, str], phase: str = "Running"
) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node},
        "status": {"phase": phase},
    }


def agent_pod(node: str, phase: str = "Running") -> dict[str, object]:
    return pod(f"agent-{node}", MESH, node, {"app.kubernetes.io/name": "meshnode-agent"}, phase)


def seen(origin: str, *names: str) -> FakeNode:
    """An agent or waypoint that counted some traffic."""
    kind, _, name = origin.partition("/")
    made = FakeNode(
        state=replace(STATUS, node=name if kind == "node" else "n1"),
        recent=RecentTraffic(origin, now=time.monotonic, clock=time.time),
    )
    for dst in names:
        if kind == "waypoint":
            made.recent.window.add(edge("shop/web", dst, path="waypoint"), requests(100))
        else:
            made.recent.window.add(edge("shop/web", dst), (4, 4, 0, 0, 10, 20))
    return made


class World:
    """Two nodes that answer, one that does not, one whose pod is not running; two waypoint pods."""

    def __init__(self, cluster: Cluster, stack: ExitStack) -> None:
        self.cluster = cluster
        self._stack = stack
        self.nodes: dict[str, FakeNode] = {}
        for node in ("a", "b"):
            cluster.apply(agent_pod(node))
            self.serve(MESH, f"agent-{node}", seen(f"node/{node}", f"shop/on-{node}"))
        cluster.apply(agent_pod("dead"), agent_pod("new", "Pending"))
        for name in ("gate-1", "gate-2"):
            cluster.apply(pod(name, "shop", "a", GATE))
            self.serve("shop", name, seen("waypoint/shop/gate", "shop/cart"))

    def serve(self, namespace: str, name: str, node: FakeNode) -> None:
        self.nodes[name] = node
        gate = open_gate_to(self.cluster.server, node.state.node)
        port = self._stack.enter_context(running_view(node, gate=gate))
        self.cluster.server.forwarded[namespace, name] = {VIEW_PORT: port}

    def ask(self, *arguments: str, code: int = 0) -> str:
        result = self.run(*arguments, "-o", "json")
        assert result.exit_code == code, result.output
        return result.stdout

    def run(self, *arguments: str) -> Result:
        return meshnode(*arguments, "--kubeconfig", self.cluster.file, node=None)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack.enter_context(running(tmp_path)), stack)


def test_traffic_of_all_is_one_answer(world: World) -> None:
    found = msgspec.json.decode(world.ask("edges"), type=EdgesAnswer)
    assert {one.dst for one in found.edges} == {"shop/on-a", "shop/on-b", "shop/cart"}
    assert set(found.origins) == {
        *("node/a", "node/b", "waypoint/shop/gate/gate-1", "waypoint/shop/gate/gate-2"),
    }
    assert "connection refused" in found.missing["node/dead"]
    assert found.missing["node/new"] == f"pod {MESH}/agent-new is Pending"
    stat = msgspec.json.decode(world.ask("stat", "workload"), type=StatAnswer)
    (cart,) = [row for row in stat.rows if row.name == "shop/cart"]
    (alone,) = msgspec.json.decode(
        world.ask("stat", "workload", "shop/cart", "--node", "a"), type=StatAnswer
    ).rows
    assert cart.rps is not None
    assert alone.rps is not None
    # Both pods of the waypoint are on node a. Rates fall while nothing happens between the answers.
    assert (cart.p50_ms, cart.p99_ms) == (alone.p50_ms, alone.p99_ms)
    assert cart.p99_ms is not None


def test_status_has_a_line_for_each_and_says_who_is_missing(world: World) -> None:
    result = world.run("status")
    assert result.exit_code == 1
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert ("no" in lines["dead"], "is Pending" in lines["new"]) == (True, True)
    assert "node/dead is missing: pod meshnode-system/agent-dead cannot be reached" in result.stderr
    found = msgspec.json.decode(world.ask("status", code=1), type=Nodes[NodeStatus])
    assert ({one.node for one in found.nodes}, set(found.missing)) == (
        {"a", "b"},
        {"node/dead", "node/new"},
    )
    assert json.loads(world.ask("status", "--node", "a", code=1))["node"] == "a"
    assert "NODE" in world.run("certs").stdout.splitlines()[0].split()
    assert "NODE" in world.run("connections").stdout.splitlines()[0].split()


def test_questions_go_to_one_that_answers(world: World) -> None:
    denied = world.run("authz", "check", "shop/old", "shop/pay", "8080")
    assert (denied.exit_code, "shop/only-cart" in denied.stdout) == (1, True)
    assert world.run("routes", "shop/payments").exit_code == 0
    assert "is in the mesh" in world.run("describe", "pod", "shop/cart").stdout
    dump = world.run("config", "dump", "--node", "b")
    assert json.loads(dump.stdout)["revision"] == 7
    several = world.run("config", "dump")
    assert (several.exit_code, "choose one with --node a|b|dead|new" in several.stderr) == (1, True)
    assert "1 difference" not in world.run("config", "diff", "a", "b").stdout
    assert world.run("bpf", "diff", "--node", "a").exit_code == 0


def test_a_level_takes_more_than_the_right_to_look(world: World) -> None:
    assert world.run("log", "--node", "a").stdout == "a: info\n"
    serve_accounts(world.cluster.server, may_make=False)
    refused = world.run("log", "--node", "a", "--level", "debug")
    assert (refused.exit_code, "bind Role meshnode-operator" in refused.stderr) == (3, True)
    assert world.nodes["agent-a"].state.log_level == "info"
    serve_accounts(world.cluster.server)
    done = world.run("log", "--node", "a", "--level", "debug")
    assert (done.exit_code, done.stdout) == (0, "a: debug\n"), done.output
    assert world.nodes["agent-a"].state.log_level == "debug"
    permission = ("", "serviceaccounts/token", "create")
    asked = [line for line in world.cluster.server.requests if " /api/" in line]
    assert permission in permissions_of(asked)
    assert permission in allowed("Role", OPERATOR)
    assert permission not in allowed("ClusterRole", VIEWER)


def test_an_installation_without_operators_says_so(world: World) -> None:
    serve_accounts(world.cluster.server, has_account=False)
    refused = world.run("log", "--node", "a", "--level", "debug")
    assert refused.exit_code == 1
    assert "apply the manifests of `meshnode install`" in refused.stderr, refused.output


def test_tables_of_the_kernel_are_read_by_its_agent(world: World) -> None:
    rows = world.run("bpf", "identity", "--node", "a").stdout.splitlines()
    assert rows[1].split()[:3] == ["10.0.0.1", "shop/cart", COOKIE]
    found = json.loads(world.ask("bpf", "identity", "--node", "b"))
    assert (found["node"], found["entries"][0]["netns_cookie"]) == ("b", COOKIE)
    refusals = json.loads(world.ask("bpf", "drops", "--node", "a"))
    assert [one["reason"] for one in refusals["entries"]] == ["denied"]
    several = world.run("bpf", "links")
    assert (several.exit_code, "choose one with --node" in several.stderr) == (1, True)


def test_what_a_waypoint_works_with_is_shown(world: World) -> None:
    refused = world.run("config", "dump", "shop/other")
    assert "there are: shop/gate/gate-1, shop/gate/gate-2" in refused.stderr, refused.output


def test_a_tap_of_the_whole_cluster(world: World) -> None:
    found: list[Result] = []
    tapping = threading.Thread(
        target=lambda: found.append(world.run("tap", "-o", "json", "-c", "2"))
    )
    tapping.start()
    tapped = [world.nodes[name].tap for name in ("agent-a", "agent-b")]
    deadline = time.monotonic() + 60
    while not all(one.watched for one in tapped):
        assert time.monotonic() < deadline, "nobody watches"
        time.sleep(0.01)
    for one in tapped:
        one.publish(BASE)
    tapping.join(60)
    assert found[0].exit_code == 0, found[0].output
    events = [json.loads(line) for line in found[0].stdout.splitlines()]
    assert {event["origin"] for event in events} == {"node/a", "node/b"}
    assert "node/dead: pod" in found[0].stderr


def test_whoever_may_not_is_told_what_is_lacking(world: World) -> None:
    world.cluster.server.faults.forbidden.add("pods/portforward")
    result = world.run("stat", "-o", "json")
    assert (result.exit_code, error_of(result)["code"]) == (3, "permission")
    assert "bind ClusterRole meshnode-viewer to yourself in namespace" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mesh-namespace", "elsewhere", "--node", "x"), "no agent is running on node x"),
        (("--context", "other"), "other"),
    ],
    ids=str,
)
def test_wrong_choices_are_told(world: World, options: tuple[str, ...], message: str) -> None:
    result = world.run("stat", *options)
    assert result.exit_code in (1, 2)
    assert message in result.stderr, result.output


def test_the_servers_being_away_is_told(world: World) -> None:
    world.cluster.server.faults.down = True
    result = world.run("stat")
    assert (result.exit_code, "/pods" in result.stderr) == (1, True), result.output


@pytest.mark.slow
def test_a_bug_report_of_the_cluster(world: World, tmp_path: Path) -> None:
    file = tmp_path / "report.tar.gz"
    found = json.loads(world.ask("bug-report", "-f", str(file)))
    assert {"nodes/a/status.json", "nodes/b/certs.json", "mesh/stat.json"} <= set(found["files"])
    assert {"nodes/dead/status.json"} <= set(found["failed"])
    with tarfile.open(file) as tar:
        names = {name.partition("/")[2]: name for name in tar.getnames()}
        status = tar.extractfile(names["nodes/a/status.json"])
        assert status is not None
        assert json.load(status)["node"] == "a"


def test_the_viewers_role_is_enough(world: World) -> None:
    world.run("edges")
    assert permissions_of(world.cluster.server.requests) <= allowed("ClusterRole", VIEWER)
