"""Every query of every dashboard and rule, asked of a Prometheus that scrapes a busy mesh."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest

import installer
from agent.cli.reach.prometheus import Prometheus
from agent.cli.stat import EdgesAnswer, StatAnswer
from installer.alerts import ALERTS, rule_groups
from installer.pages_all import DASHBOARDS
from installer.panels import Dashboard
from tests.lab import Lab, Node, Pod, Result, eventually
from tests.lab.agent import MESHNODE, MESHNODE_ENVIRONMENT
from tests.lab.objects import KubeObject, authorization_policy, kube_object, pod_object
from tests.lab.process import run
from tests.lab.waypoint import start_waypoint, wait_ready, waypoint_labels
from tests.netns.monitoring.prometheus import ADDRESS, start_prometheus
from tests.netns.monitoring.prometheus import Prometheus as Server
from tests.netns.waypoint.mesh import APP_PORT, NAMESPACE, SERVER, VIP, service

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]

TCP_VIP = "10.96.7.9"


@dataclass(frozen=True, slots=True)
class World:
    """Two nodes, a waypoint, traffic of every kind, and Prometheus."""

    lab: Lab
    prometheus: Server
    client: Pod
    neighbour: Pod
    outcast: Pod
    direct: Pod

    def traffic(self) -> None:
        """One round: L7 good and bad, tunnelled, direct, refused in the kernel."""
        answers = [
            ask(self.client, f"http://{VIP}/"),
            ask(self.client, f"http://{VIP}/"),
            ask(self.client, f"http://{self.direct.address4}:{APP_PORT}/"),
            ask(self.neighbour, f"http://{self.direct.address4}:{APP_PORT}/"),
            ask(self.client, f"http://{TCP_VIP}:80/"),
        ]
        assert answers == ["200"] * 5, answers
        assert ask(self.client, f"http://{VIP}/forbidden") == "403"
        assert ask(self.outcast, f"http://{self.direct.address4}:{APP_PORT}/") == "000"


def ask(pod: Pod, url: str) -> str:
    """Status of a GET; 000 where there was no answer."""
    argv = ["curl", "-sS", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code}", url]
    return pod.run(argv).stdout


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab("monitor") as lab:
        a, b = lab.node("a"), lab.node("b")
        lab.namespace(NAMESPACE, enrolled=True)
        client = a.pod("client", namespace=NAMESPACE)
        web = b.pod("web", namespace=NAMESPACE, labels={"app": "web"})
        direct = b.pod("direct", namespace=NAMESPACE, labels={"app": "direct"})
        neighbour = b.pod("neighbour", namespace=NAMESPACE)
        outcast = b.pod("outcast", namespace=NAMESPACE)
        gate = b.pod("gate", namespace=NAMESPACE, labels=waypoint_labels("gate"))
        lab.apply("service-web", service("web", VIP, {"app": "web"}))
        lab.apply("service-direct", _tcp_service())
        lab.apply("policies", _policies(outcast))
        for pod in (web, direct):
            argv = [sys.executable, str(SERVER), str(APP_PORT), "v1"]
            pod.start(argv).wait_listening(APP_PORT)
        jobs = {"meshnode-agent": [], "meshnode-waypoint": [f"{gate.address4}:15021"]}
        for node in (a, b):
            address = f"{node.addresses.underlay4}:15020"
            node.agent(f"--metrics={address}", "--workers=1")
            jobs["meshnode-agent"].append(address)
        waypoint = start_waypoint(gate, f"{NAMESPACE}/gate", "--admin=0.0.0.0:15021", ca_node=a)
        jobs["meshnode-controller"] = [start_controller(lab, a)]
        try:
            wait_ready(gate)
            prometheus = start_prometheus(a, lab.directory / "prometheus", jobs, _hasty_rules())
            made = World(lab, prometheus, client, neighbour, outcast, direct)
            for _ in range(4):
                made.traffic()
            yield made
        finally:
            waypoint.stop()


def start_controller(lab: Lab, node: Node) -> str:
    """A certificate authority that nobody asks; where its metrics are."""
    state = str(lab.directory / "authority")
    argv = [*MESHNODE, "ca", "init", "--ca", state]
    run(node.place, argv, env=MESHNODE_ENVIRONMENT).check()
    listen = f"--listen={node.addresses.underlay4}:15112"
    source = f"--source=file:{lab.objects.path}"
    lab.start_meshnode(node.place, "controller", "controller", source, "--ca", state, listen)
    return "127.0.0.1:15014"


def _tcp_service() -> KubeObject:
    made = service("direct", TCP_VIP, {"app": "direct"})
    metadata = made["metadata"]
    assert isinstance(metadata, Mapping)
    return {**made, "metadata": {**metadata, "labels": {}}}


def _policies(outcast: Pod) -> list[KubeObject]:
    principal = f"cluster.local/ns/{NAMESPACE}/sa/{outcast.service_account}"
    return [
        authorization_policy(
            NAMESPACE,
            "no-outcast",
            action="DENY",
            selector={"app": "direct"},
            rules=[{"from": [{"source": {"principals": [principal]}}]}],
        ),
        kube_object(
            "meshnode.io/v1alpha1",
            "AuthorizationPolicy",
            "no-forbidden",
            namespace=NAMESPACE,
            spec={
                "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
                "action": "DENY",
                "rules": [{"to": [{"operation": {"paths": ["/forbidden"]}}]}],
            },
        ),
    ]


def _hasty_rules() -> object:
    """The alerts as they are, but nobody waits minutes for them."""
    rules = copy.deepcopy(rule_groups())
    groups = rules["groups"]
    assert isinstance(groups, list)
    for rule in groups[0]["rules"]:
        rule["for"] = "0s"
    return rules


def queries(dashboard: Dashboard) -> Iterator[tuple[str, str]]:
    """Title of the panel and expression, with every variable at "All"."""
    for panel in dashboard.panels:
        for query in panel.queries:
            expr = query.expr.replace("$rate", "30s")
            for variable in dashboard.variables:
                expr = expr.replace(f"${variable.name}", ".*")
            assert "$" not in expr, expr
            yield panel.title, expr


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: str(one.uid))
def test_every_panel_shows_something(world: World, dashboard: Dashboard) -> None:
    def empty() -> list[str]:
        return [
            f"{title}: {expr}"
            for title, expr in queries(dashboard)
            if not world.prometheus.query(expr)
        ]

    def shows() -> bool:
        found = empty()
        assert not found, "\n".join(found)
        return True

    world.traffic()
    eventually(shows, 40, f"every panel of {dashboard.title} has data")


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: str(one.uid))
def test_every_choice_has_values(world: World, dashboard: Dashboard) -> None:
    for variable in dashboard.variables:
        assert world.prometheus.values(variable.label, variable.metric), variable


def test_the_numbers_are_those_of_the_traffic(world: World) -> None:
    """One number of each kind, against what was sent."""
    requests = 'sum(istio_requests_total{destination_service_name="web", response_code="403"})'
    before = _one(world, requests)
    world.traffic()
    eventually(lambda: _one(world, requests) == before + 1, 30.0, "one more refused request")
    denied = "sum by (policy) (meshnode_policy_denied_total)"
    policies = {str(one["metric"]) for one in world.prometheus.query(denied)}
    assert any("no-outcast" in one for one in policies), policies


def _one(world: World, expr: str) -> float:
    [sample] = world.prometheus.query(expr)
    value = sample["value"]
    assert isinstance(value, list)
    return float(value[1])


def test_rules_are_well_formed() -> None:
    rules = Path(installer.__file__).parent / "dashboards" / "alerts.yaml"
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint-fatal", str(rules)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_command_line_knows_longer_times(world: World) -> None:
    """`stat` and `edges` of an hour, from what Prometheus scraped."""
    url = f"--prometheus=http://{ADDRESS}"

    def ask(command: str, *arguments: str) -> Result:
        words = (command, *arguments, "--window", "1h", url, "-o", "json")
        return run(world.prometheus.node.place, [*MESHNODE, *words], env=MESHNODE_ENVIRONMENT)

    def complete() -> StatAnswer:
        world.traffic()
        found = msgspec.json.decode(ask("stat", "service").check().stdout, type=StatAnswer)
        rows = {row.name: row for row in found.rows}
        assert {f"{NAMESPACE}/web", f"{NAMESPACE}/direct"} <= set(rows)
        assert rows[f"{NAMESPACE}/web"].denied > 0, found  # a second one after the first scrape
        return found

    found = eventually(complete, 60.0, "services in Prometheus")
    (web,) = [row for row in found.rows if row.name == f"{NAMESPACE}/web"]
    assert web.rps is not None
    assert web.success is not None
    assert 0.0 < web.success < 1.0  # two of three requests of a round
    assert web.p50_ms is not None
    assert found.origins == {f"http://{ADDRESS}": 3600.0}
    edges = msgspec.json.decode(ask("edges").check().stdout, type=EdgesAnswer).edges
    paths = {(edge.src, edge.dst): (edge.path, edge.secured) for edge in edges}
    assert paths[f"{NAMESPACE}/client", f"{NAMESPACE}/direct"] == ("hbone", True)
    assert paths[f"{NAMESPACE}/neighbour", f"{NAMESPACE}/direct"] == ("direct", True)
    assert (f"{NAMESPACE}/client", f"{NAMESPACE}/web") in paths
    story = Prometheus("here", lambda path, query: _fetch(world, path, query)).story(
        3600.0, f"{NAMESPACE}/web", 60
    )
    assert any(edge.points for edge in story.edges)
    away = ["stat", "--window", "1h", "--prometheus", "http://127.0.0.1:1", "-o", "json"]
    failed = run(world.prometheus.node.place, [*MESHNODE, *away], env=MESHNODE_ENVIRONMENT)
    assert (failed.status, "does not answer" in failed.stderr) == (1, True), failed


def test_configuration_is_not_open_to_the_network(world: World) -> None:
    """Where a waypoint's metrics are for everybody, nothing else is."""
    data = world.prometheus.ask("targets", state="active")
    assert isinstance(data, dict)
    (url,) = [one["scrapeUrl"] for one in data["activeTargets"] if ":15021/" in one["scrapeUrl"]]
    asked = ("metrics", "config_dump", "clusters", "problems", "v1/tap", "v1/traffic")
    answers = {
        name: world.prometheus.node.run(
            ["curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}",
             url.replace("metrics", name)]
        ).stdout
        for name in asked
    }  # fmt: skip
    assert answers == {**dict.fromkeys(asked, "404"), "metrics": "200"}


def _fetch(world: World, path: str, query: Mapping[str, str]) -> bytes:
    url = f"http://{ADDRESS}{path}?{urlencode(query)}"
    return world.prometheus.node.run(["curl", "-sS", "-g", url]).check().stdout.encode()


def test_alerts_are_silent_until_something_is_wrong(world: World) -> None:
    """Last: it breaks the mesh."""

    def all_silent() -> bool:
        states = world.prometheus.alerts()
        assert set(states) == {alert.name for alert in ALERTS}
        firing = {name for name, state in states.items() if state != "inactive"}
        assert not firing, firing
        return True

    eventually(all_silent, 40, "no alert without a reason")
    lost = pod_object(
        NAMESPACE,
        "lost",
        service_account="client",
        node=world.neighbour.node.name,
        addresses=["10.77.0.9"],
        netns="/run/netns/mnt-there-is-none",
    )
    world.lab.apply("lost", lost)
    world.lab.apply("broken", "apiVersion: meshnode.io/v1alpha1\nkind: PeerAuthentication\n")

    def firing(*names: str) -> bool:
        states = world.prometheus.alerts()
        assert all(states[name] == "firing" for name in names), states
        return True

    broken = ("MeshnodeEnrolmentFailed", "MeshnodeObjectsInvalid")
    eventually(lambda: firing(*broken), 40, "alerts of a lost pod and a broken object")
    agent = world.neighbour.node.running_agent
    assert agent is not None
    agent.kill()
    eventually(lambda: firing("MeshnodeAgentDown"), 40, "the alert of an agent that is gone")
