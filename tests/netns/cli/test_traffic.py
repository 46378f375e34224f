"""What people ask about traffic, of a mesh that runs: stat, edges, top, tap, bpf monitor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import jsonschema
import msgspec
import pytest

from agent.cli.output.schemas import schemas
from agent.cli.stat import EdgesAnswer, StatAnswer
from tests.lab import Process, Result, eventually
from tests.lab.objects import authorization_policy, service_object
from tests.netns.mesh.apps.serve import SPEAK_FIRST
from tests.netns.mesh.world import APPS, PYTHON, Mesh, running_mesh

pytestmark = pytest.mark.root

VIP = "10.96.3.1"
RULE = "AuthorizationPolicy default/refuse-client rule[0]"
RULES = [{"from": [{"source": {"principals": ["*/sa/client"]}}]}]


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """Two nodes with a service, and one pair that policy keeps apart."""
    with running_mesh("traffic") as made:
        made.apply(
            "service",
            service_object(
                "default",
                "web",
                cluster_ips=[VIP],
                port=80,
                target_port=7000,
                selector={"app": "far"},
            ),
        )
        made.apply(
            "refuse-client",
            authorization_policy(
                "default", "refuse-client", action="DENY", selector={"app": "near"}, rules=RULES
            ),
        )
        for _ in range(3):
            assert made.dial("client", "far")["server"] == "far"
            assert made.dial("near", "client")["server"] == "client"
        assert made.dial("client", VIP, 80)["server"] == "far"
        assert made.dial("client", "near")["error"] == "ECONNREFUSED"
        yield made


def meshnode(mesh: Mesh, *arguments: str) -> Result:
    return mesh.a.meshnode(*arguments)


def edges_of(mesh: Mesh, command: tuple[str, ...]) -> EdgesAnswer:
    text = meshnode(mesh, *command, "-o", "json").check().stdout
    return msgspec.json.decode(text, type=EdgesAnswer)


@pytest.mark.parametrize("command", [("edges", "--since", "5m"), ("top", "--once")], ids=" ".join)
def test_edges_say_who_how_and_whether_secured(mesh: Mesh, command: tuple[str, ...]) -> None:
    def complete() -> EdgesAnswer:
        if command[0] == "top":  # of the last seconds only
            mesh.dial("client", "far")
            mesh.dial("near", "client")
        found = edges_of(mesh, command)
        assert {("default/client", "default/far"), ("default/near", "default/client")} <= {
            (edge.src, edge.dst) for edge in found.edges
        }, found
        return found

    found = {(edge.src, edge.dst): edge for edge in eventually(complete, 30.0, "edges").edges}
    tunnelled = found["default/client", "default/far"]
    assert (tunnelled.path, tunnelled.secured) == ("hbone", True)
    assert tunnelled.src_identity == "cluster.local/ns/default/sa/client"
    assert tunnelled.dst_identity == "cluster.local/ns/default/sa/far"
    direct = found["default/near", "default/client"]
    assert (direct.path, direct.secured) == ("direct", True)

    def shown() -> str:
        if command[0] == "top":
            mesh.dial("near", "client")
        table = meshnode(mesh, *command).check().stdout
        assert "default/near" in table, table
        return table

    assert eventually(shown, what="a table").splitlines()[0].split()[:3] == ["FROM", "TO", "PATH"]


def test_stat_counts_success_and_denials(mesh: Mesh) -> None:
    def complete() -> StatAnswer:
        text = meshnode(mesh, "stat", "--since", "5m", "-o", "json").check().stdout
        found = msgspec.json.decode(text, type=StatAnswer)
        assert {"default/far", "default/near"} <= {row.name for row in found.rows}, found
        return found

    rows = {row.name: row for row in eventually(complete, 30.0, "stat").rows}
    assert rows["default/far"].success == 1.0
    assert (rows["default/near"].success, rows["default/near"].denied) == (0.0, 1)
    (service,) = msgspec.json.decode(
        meshnode(mesh, "stat", "service", "default/web", "--since", "5m", "-o", "json").stdout,
        type=StatAnswer,
    ).rows
    assert service.connections_s > 0
    table = meshnode(mesh, "stat", "namespace", "--since", "5m").check().stdout
    # A waypoint of another lab on this machine may have rows, too.
    assert "default" in {line.split()[0] for line in table.splitlines()[1:]}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("stat", "--since", "2h"), "--node is for the last 15m"),
        (("edges", "--since", "900h"), "use 1s to 720h"),
        (("tap", "default"), "write NAMESPACE/NAME"),
        (("stat", "pod"), "is not one of"),
    ],
    ids=str,
)
def test_bad_questions_are_told(mesh: Mesh, command: tuple[str, ...], message: str) -> None:
    result = meshnode(mesh, *command)
    assert (result.status, message in result.stderr) == (1, True), result


def watching(mesh: Mesh, *arguments: str) -> Process:
    """A running command that watches; `started` events are waited for by the caller."""
    name = f"watch-{arguments[0]}"
    return mesh.lab.start_meshnode(mesh.a.place, name, *arguments, "--node", mesh.a.name)


def first_event(mesh: Mesh, watch: Process, cause: tuple[str, str]) -> Mapping[str, object]:
    """Repeat the cause until the watcher has seen one: it may not be attached yet."""

    def seen() -> Mapping[str, object] | None:
        mesh.dial(*cause)
        lines = [line for line in watch.output.splitlines() if line.startswith("{")]
        return json.loads(lines[0]) if lines else None

    event = eventually(seen, 30.0, "an event")
    assert event is not None
    return event


def test_tap_names_the_rule_of_a_denial(mesh: Mesh) -> None:
    watch = watching(mesh, "tap", "default/near", "--denied", "-o", "json", "-c", "1")
    event = first_event(mesh, watch, ("client", "near"))
    assert (event["flag"], event["policy"], event["path"]) == ("DENY", RULE, "direct")
    assert (event["src.workload"], event["dst.workload"]) == ("client", "near")
    assert event["origin"] == f"node/{mesh.a.name}"


def test_tap_shows_what_passed(mesh: Mesh) -> None:
    watch = watching(mesh, "tap", "default/far", "-o", "json", "-c", "1")
    event = first_event(mesh, watch, ("client", "far"))
    assert (event["flag"], event["path"], event["mutual_tls"]) == ("-", "hbone", True)


def test_tap_shows_every_connection_of_a_lane(mesh: Mesh) -> None:
    """More of them than a worker tells of while nobody looks."""
    watch = watching(mesh, "tap", "default/far", "--connections", "-o", "json")
    first_event(mesh, watch, ("client", "far"))
    spread = [*PYTHON, str(APPS / "spread.py"), mesh["far"].address4, str(SPEAK_FIRST), "20"]
    assert json.loads(mesh["client"].run(spread).check().stdout)["servers"] == {"far": 20}

    def all_there() -> bool:
        lines = [json.loads(one) for one in watch.output.splitlines() if one.startswith("{")]
        ports = {one["src.addr"] for one in lines if one.get("dst.workload") == "far"}
        assert len(ports) >= 20, len(ports)
        assert not any("lost" in one for one in lines)
        return True

    eventually(all_there, 30.0, "a line for each connection")


def test_the_kernels_events_carry_verdict_and_reason(mesh: Mesh) -> None:
    watch = watching(mesh, "bpf", "monitor", "--denied", "-o", "json", "-c", "1")
    event = first_event(mesh, watch, ("client", "near"))
    assert (event["verdict"], event["reason"], event["policy"]) == ("denied", "deny_policy", RULE)
    assert (event["src"], event["dst"], event["lost"]) == ("default/client", "default/near", 0)
    jsonschema.validate(event, schemas()["bpf monitor"])


def test_denials_are_counted_by_rule(mesh: Mesh) -> None:
    url = "http://127.0.0.1:15020/metrics"
    wanted = f'meshnode_policy_denied_total{{policy="{RULE}",reporter="source"}}'
    eventually(lambda: wanted in mesh.a.run(["curl", "-sS", url]).check().stdout, what=wanted)
