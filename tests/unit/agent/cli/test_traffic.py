"""stat, edges, top and the live commands against a node that the test feeds."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema
import msgspec
import pytest

from agent.admin.view import FlowEvent
from agent.cli.output.schemas import ANSWERS, schema_of
from agent.cli.stat import EdgesAnswer, StatAnswer
from tests.browser.world import RULE, denial, edge, requests
from tests.unit.agent.admin.fake import FakeNode, running_admin
from tests.unit.agent.cli.invoke import meshnode
from tests.unit.mesh.telemetry.records import BASE, denied

FLOW = FlowEvent(
    at=1_700_000_000.0,
    verdict="denied",
    reason="deny_policy",
    policy=RULE,
    src="shop/cart",
    dst="bank/pay",
    src_addr="10.0.0.1:0",
    dst_addr="10.0.0.2:80",
    dialled="10.0.0.2:80",
    cookie="18446744073709551615",
    lost=3,
)


@pytest.fixture
def node() -> FakeNode:
    made = FakeNode()
    window = made.recent.window
    window.add(edge("shop/web", "shop/cart", path="waypoint", route="HTTPRoute/shop/cart/0"),
               requests(200, failed=10, denied=2, slow=4))  # fmt: skip
    window.add(edge("legacy/cron", "data/redis", path="passthrough", secured=False),
               (4, 4, 0, 0, 2048, 4096))  # fmt: skip
    made.recent.denials.add(denial())
    return made


@pytest.fixture
def socket(node: FakeNode, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "admin.sock"
    with running_admin(node, path):
        yield path


def test_stat_for_people(socket: Path) -> None:
    lines = meshnode("stat", socket=socket).stdout.splitlines()
    assert lines[0].split() == [
        *("NAME", "SUCCESS", "RPS", "P50", "P95", "P99"),
        *("CONN/S", "DENIED", "SENT/S", "RECEIVED/S"),
    ]
    cart = lines[1].split()
    assert (cart[0], cart[1], cart[7]) == ("shop/cart", "94.00%", "2")
    assert lines[2].split()[:3] == ["data/redis", "100.00%", "-"]
    assert lines[-1].startswith("2 workloads; 1 answered for the last ")


@pytest.mark.parametrize("command", ["stat", "edges", "top"])
def test_answers_keep_their_schema(socket: Path, command: str) -> None:
    once = ["--once"] if command == "top" else []
    text = meshnode(command, *once, "-o", "json", socket=socket).stdout
    jsonschema.validate(json.loads(text), schema_of(ANSWERS[command]))


def test_rows_and_namespaces_can_be_chosen(socket: Path) -> None:
    text = meshnode("stat", "service", "shop/cart", "-o", "json", socket=socket).stdout
    assert [row.name for row in msgspec.json.decode(text, type=StatAnswer).rows] == ["shop/cart"]
    text = meshnode("stat", "route", "-o", "json", socket=socket).stdout
    (route,) = msgspec.json.decode(text, type=StatAnswer).rows
    assert route.name == "HTTPRoute/shop/cart/0"
    text = meshnode("edges", "-n", "data", "-o", "json", socket=socket).stdout
    (only,) = msgspec.json.decode(text, type=EdgesAnswer).edges
    assert (only.src, only.secured, only.path) == ("legacy/cron", False, "passthrough")


def test_edges_for_people(socket: Path) -> None:
    lines = meshnode("edges", socket=socket).stdout.splitlines()
    line = next(line for line in lines if line.startswith("shop/web"))
    assert line.split()[:4] == ["shop/web", "shop/cart", "waypoint", "yes"]


@pytest.mark.parametrize("since", ["0s", "16m", "soon"])
def test_times_that_make_no_sense(socket: Path, since: str) -> None:
    assert meshnode("stat", "--since", since, socket=socket).exit_code == 1


class Feed:
    """Publishes an event from the outside until the command has seen enough and ended."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self._node.tap.omit(BASE, "shop/cart > bank/pay  direct", 5)
            self._node.tap.publish(BASE)
            self._node.tap.publish(denied())
            self._node.flows.publish(FLOW)
            self._node.flows.publish(replace(FLOW, verdict="allowed", reason="direct", policy=""))

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)


def test_tap_for_people_and_programs(node: FakeNode, socket: Path) -> None:
    with Feed(node):
        human = meshnode("tap", "-c", "2", socket=socket).stdout
        only = meshnode("tap", "bank/pay", "--denied", "-c", "2", "-o", "json", socket=socket)
    assert "conn  ok      shop/cart-1 > bank/pay-1  hbone  by source" in human
    assert "DENY denied  by AuthorizationPolicy bank/only-cart rule[0]" in human
    more = r"\.\.\. \d+ more shop/cart > bank/pay  direct, not shown one by one \(at node/n1\)"
    assert re.search(more, human), human
    events = [json.loads(line) for line in only.stdout.splitlines()]
    assert [event["flag"] for event in events] == ["DENY", "DENY"]
    assert {event["origin"] for event in events} == {"node/n1"}


def test_the_kernels_events(node: FakeNode, socket: Path) -> None:
    with Feed(node):
        human = meshnode("bpf", "monitor", "-c", "2", socket=socket).stdout
        only = meshnode("bpf", "monitor", "--denied", "-c", "1", "-o", "json", socket=socket)
    assert f"denied   shop/cart > bank/pay  10.0.0.2:80  deny_policy  by {RULE}  [3 lost]" in human
    assert "allowed" in human
    event = json.loads(only.stdout)
    assert (event["verdict"], event["cookie"], event["lost"]) == ("denied", FLOW.cookie, 3)


@pytest.mark.parametrize("about", ["shop", "bank"])
def test_what_tap_is_about_has_a_slash(socket: Path, about: str) -> None:
    result = meshnode("tap", about, socket=socket)
    assert (result.exit_code, f"or {about}/ for a whole namespace" in result.stderr) == (1, True)
