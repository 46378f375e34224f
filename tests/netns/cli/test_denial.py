"""One denied request, told by everything people look at: all name the same policy and rule."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest

from agent.admin.describe import Description
from agent.admin.matching import RoutesAnswer
from agent.admin.question import AuthzAnswer
from agent.cli.stat import EdgesAnswer, StatAnswer
from agent.dashboard.data import Overview
from agent.dashboard.server import SECRET_HEADER
from tests.lab import eventually
from tests.lab.agent import MESHNODE, MESHNODE_ENVIRONMENT
from tests.lab.process import run
from tests.netns.cli.shopfront import POLICY, RULE, shopfront, watching
from tests.netns.waypoint.mesh import PORT, Shop

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def scene() -> Iterator[Shop]:
    with shopfront("denial") as running:
        yield running


def meshnode(scene: Shop, *arguments: str, status: int = 0) -> str:
    """Run a command as root of the machine would, about everything that runs there."""
    place = scene.lab.nodes["node-a"].place
    result = run(place, [*MESHNODE, *arguments], timeout_s=30.0, env=MESHNODE_ENVIRONMENT)
    assert result.status == status, result
    return result.stdout


def test_the_access_log_names_the_policy(scene: Shop) -> None:
    wanted = f"rbac_access_denied_matched_policy[{RULE}]"
    eventually(lambda: wanted in scene.waypoint.output, 30.0, "the log line")


def test_authz_check_names_the_rule(scene: Shop) -> None:
    node = scene.client.node.name
    question = ("authz", "check", "shop/client", "shop/web", str(PORT), "--node", node)
    text = meshnode(scene, *question, "--path", "/admin/users", "-o", "json", status=1)
    found = msgspec.json.decode(text, type=AuthzAnswer)
    assert (found.allowed, str(found.decided_by), found.waypoint) == (False, RULE, "shop/gate")
    human = meshnode(scene, *question, "--path", "/admin/users", status=1)
    assert human.startswith(f"denied by {RULE}")
    meshnode(scene, *question, "--path", "/items")


def test_metrics_count_the_rule(scene: Shop) -> None:
    argv = ["curl", "-sS", "http://127.0.0.1:15021/metrics"]
    wanted = f'meshnode_waypoint_denied_total{{policy="{RULE}"}}'
    eventually(lambda: wanted in scene.waypoint_pod.run(argv).check().stdout, 30.0, "the metric")


def test_tap_shows_the_rule(scene: Shop) -> None:
    watch = watching(scene, "tap", "shop/web", "--denied", "--requests", "-o", "json", "-c", "1")

    def seen() -> list[str]:
        scene.get("/admin/users")
        return [line for line in watch.output.splitlines() if line.startswith("{")]

    event = json.loads(eventually(seen, 30.0, "a denied request")[0])
    assert (event["kind"], event["policy"], event["status"]) == ("request", RULE, 403)
    assert (event["src.workload"], event["path"]) == ("client", "/admin/users")


def test_stat_edges_and_routes_of_requests(scene: Shop) -> None:
    def complete() -> StatAnswer:
        text = meshnode(scene, "stat", "service", "shop/web", "--since", "5m", "-o", "json")
        found = msgspec.json.decode(text, type=StatAnswer)
        assert found.rows[0].denied, found
        return found

    (row,) = eventually(complete, 30.0, "requests in stat").rows
    assert row.rps
    assert row.p50_ms is not None
    assert row.success is not None
    assert row.success < 1
    by_route = msgspec.json.decode(
        meshnode(scene, "stat", "route", "--since", "5m", "-o", "json"), type=StatAnswer
    )
    assert "HTTPRoute/shop/web/all" in {one.name for one in by_route.rows}
    edges = msgspec.json.decode(
        meshnode(scene, "edges", "--since", "5m", "-o", "json"), type=EdgesAnswer
    ).edges
    paths = {(edge.src, edge.dst): edge.path for edge in edges}
    assert paths["shop/client", "shop/gate"] == "hbone"
    assert "waypoint" in paths.values()
    assert any(name.startswith("waypoint/shop/gate") for name in by_route.origins)


def test_describe_and_routes_speak_of_what_is_in_force(scene: Shop) -> None:
    node = ("--node", scene.client.node.name)
    text = meshnode(scene, "describe", "service", "shop/web", *node)
    assert "It is behind waypoint shop/gate (1 ready)" in text
    assert f"DENY AuthorizationPolicy {POLICY} (2 rules" in text
    assert "a request may take 3 s" in text
    found = msgspec.json.decode(
        meshnode(scene, "describe", "pod", "shop/web-v1", "-o", "json"), type=Description
    )
    assert (found.meshed, found.state, found.waypoint) == (True, "active", "shop/gate")
    winner = msgspec.json.decode(
        meshnode(scene, "routes", "shop/web", "--path", "/x", "-o", "json", *node),
        type=RoutesAnswer,
    )
    assert (winner.winner, winner.backends) == ("HTTPRoute/shop/web/all", ("shop/web-v1:80 100%",))


def test_the_page_names_the_rule(scene: Shop) -> None:
    page = watching(scene, "dashboard", "--listen", "127.0.0.1:0")
    page.wait_output("#secret=")
    url, _, secret = page.output.split()[-1].partition("/#secret=")
    argv = ["curl", "-sS", "-H", f"{SECRET_HEADER}: {secret}", f"{url}/api/overview?seconds=300"]

    def told() -> Overview:
        text = scene.lab.nodes["node-a"].run(argv).check().stdout
        found = msgspec.json.decode(text, type=Overview)
        assert RULE in {denial.policy for denial in found.denials}, found.denials
        return found

    overview = eventually(told, 30.0, "the page's denials")
    denial = next(one for one in overview.denials if one.policy == RULE)
    assert (denial.src, denial.service, denial.example) == (
        "shop/client",
        "shop/web",
        "GET /admin/users",
    )
    nodes = {node.name for node in scene.lab.nodes.values()}  # others may run on this machine
    assert nodes <= {health.node for health in overview.nodes if health.ready}
    assert page.stop() == 0
