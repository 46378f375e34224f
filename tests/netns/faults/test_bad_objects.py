"""Objects that are wrong: named with file and line in `meshnode status`, while the rest works."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Node, eventually
from tests.lab.objects import authorization_policy
from tests.netns.faults.world import World, agent_of

pytestmark = pytest.mark.root

POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: broken, namespace: default}
spec:
"""
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: odd, namespace: default}
"""


def problems(node: Node) -> list[str]:
    """`where: message` of each."""
    status = agent_of(node).status()
    assert status is not None
    return [f"{problem.where}: {problem.message}" for problem in status.problems]


@pytest.fixture(autouse=True)
def bad_file_is_removed(world: World) -> Iterator[None]:
    yield
    world.lab.delete("bad")
    eventually(lambda: not problems(world.a), 30.0, "the problem goes with the file")


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        pytest.param("kind: [\n", 1, "no valid YAML", id="unparsable"),
        pytest.param("apiVersion: v1\nkind: Podd\n", 2, "unknown kind 'Podd'", id="kind"),
        pytest.param(POLICY + "  actoin: DENY\n", 5, "did you mean 'action'", id="field"),
        pytest.param(
            POLICY + "  rules:\n  - from:\n    - source:\n        ipBlocks: [10.0.0.0/33]\n",
            8,
            "not an IP address or CIDR block",
            id="cidr",
        ),
        pytest.param(
            POLICY + "  rules:\n  - to:\n    - operation:\n        ports: ['70000']\n",
            8,
            "'70000' is not a port",
            id="port",
        ),
        pytest.param(
            POLICY + "  rules:\n  - from:\n    - source:\n        principals: [web]\n",
            8,
            "'web' is not a SPIFFE ID",
            id="spiffe-id",
        ),
        pytest.param(
            POLICY + "  rules:\n  - when:\n    - key: source.naemspace\n      values: [a]\n",
            7,
            "unknown key 'source.naemspace'",
            id="when-key",
        ),
        pytest.param(POD, 1, "has no status.podIP", id="pod-without-address"),
        pytest.param(
            POD + "spec: {nodeName: elsewhere}\nstatus: {podIP: 10.40.2.2, phase: Running}\n",
            0,
            "10.40.2.2",
            id="address-taken",
        ),
        pytest.param(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: far, namespace: default}\n",
            0,
            "far",
            id="duplicate-name",
        ),
    ],
)
def test_it_is_named_and_the_rest_works(world: World, text: str, line: int, told: str) -> None:
    world.lab.apply("bad", text)

    def named() -> bool:
        found = problems(world.a)
        assert len(found) == 1, found
        where = f"bad.yaml:{line}: " if line else ".yaml:"
        return where in found[0] and told in found[0]

    try:
        eventually(named, 30.0)
    except AssertionError as error:
        raise AssertionError(f"problems: {problems(world.a)}") from error
    shown = world.a.meshnode("status")
    # A pod that waits for its address is no error of anybody's.
    assert shown.status == (0 if told.startswith("has no") else 1), shown.stdout
    assert ".yaml:" in shown.stdout
    assert world.ask(world.far.address4).end == "ok"
    assert world.ask(world.near.address4).end == "ok"


def test_the_last_good_state_of_a_broken_file_stays(world: World) -> None:
    def denied() -> bool:
        return world.ask(world.far.address4).end != "ok"

    world.lab.apply("bad", authorization_policy("default", "nobody", rules=[]))
    eventually(denied, 30.0, "the policy is in force")
    world.lab.apply("bad", "kind: [\n")
    eventually(lambda: problems(world.a) and problems(world.b), 30.0, "both agents see it")
    assert denied()
    assert any("bad.yaml:1" in problem for problem in problems(world.b))
    world.lab.delete("bad")
    eventually(lambda: not denied(), 30.0, "the policy goes with its file")


def test_the_agents_ran_all_the_time(world: World) -> None:
    assert all(agent_of(node).running for node in (world.a, world.b))
    assert world.a.meshnode("status").status == 0
