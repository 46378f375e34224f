"""A pod starts only after it was captured: real plugin, real agent, real namespaces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from agent.admin.view import PodState
from agent.cni.build import NAME, build
from tests.lab import Lab, Node, Pod, eventually
from tests.lab.objects import namespace_object
from tests.netns.cni.runtime import Runtime

pytestmark = pytest.mark.root

CONFLIST = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "none"}]}


@dataclass(frozen=True, slots=True)
class World:
    """One node whose runtime calls our plugin."""

    lab: Lab
    node: Node
    runtime: Runtime

    def publish(self, pod: Pod, namespace: str) -> None:
        """Show a pod to the agent, as the API server does before its sandbox is made."""
        self.lab.apply(f"pod-{namespace}-{pod.name}", pod.objects())

    def add(self, pod: Pod, namespace: str) -> tuple[int, str]:
        called = self.runtime.call(
            "ADD",
            namespace=namespace,
            name=pod.name,
            netns=pod.netns_path,
            address=pod.address4,
        )
        return called.code, called.message


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("cni")
    runtime = Runtime(conf_dir=directory / "net.d", bin_dir=directory / "bin")
    runtime.conf_dir.mkdir()
    (runtime.conf_dir / "10-pods.conflist").write_text(json.dumps(CONFLIST))
    with Lab("cni") as lab:
        plugin = directory / NAME
        build(plugin)
        node = lab.node("a")
        lab.apply("ns-in", namespace_object("shop", enrolled=True))
        lab.apply("ns-out", namespace_object("plain", enrolled=False))
        node.agent(*_options(runtime), f"--cni-plugin={plugin}")
        eventually(lambda: _chained(runtime), 30.0, "the plugin is chained")
        yield World(lab, node, runtime)


@pytest.fixture(scope="module", autouse=True)
def ghost(world: World) -> Iterator[Future[tuple[int, str]]]:
    """What becomes of a pod that no agent hears of: told when its time is over."""
    pod = world.node.pod("ghost", namespace="shop", publish=False)
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(world.add, pod, "shop")


def _options(runtime: Runtime) -> tuple[str, ...]:
    return (
        "--workers=1",
        "--cni=true",
        f"--cni-bin-dir={runtime.bin_dir}",
        f"--cni-conf-dir={runtime.conf_dir}",
        "--cni-timeout=8s",
        "--cni-exclude=kube-system",
    )


def _chained(runtime: Runtime) -> bool:
    tree = json.loads((runtime.conf_dir / "10-pods.conflist").read_text())
    return bool(tree["plugins"][-1]["type"] == NAME)


def test_a_pod_of_the_mesh_starts_captured(world: World) -> None:
    pod = world.node.pod("web", namespace="shop", publish=False)
    with ThreadPoolExecutor(1) as threads:
        # The runtime may be quicker than the watch: the plugin waits.
        adding = threads.submit(world.add, pod, "shop")
        world.publish(pod, "shop")
        assert adding.result() == (0, "")
    agent = world.node.running_agent
    assert agent is not None
    status = agent.status()
    assert status is not None
    [state] = [one.state for one in status.pods if one.name == "web"]
    assert state is PodState.ACTIVE
    checked = world.runtime.call("CHECK", namespace="shop", name="web", netns=pod.netns_path)
    assert checked.code == 0


def test_a_pod_of_no_mesh_starts_at_once(world: World) -> None:
    pod = world.node.pod("other", namespace="plain", publish=False)
    world.publish(pod, "plain")
    assert world.add(pod, "plain") == (0, "")


def test_another_namespace_than_the_captured_one_does_not_count(world: World) -> None:
    """A pod of the mesh whose sandbox was made anew waits for the new one's capture."""
    pod = world.node.pod("twice", namespace="shop", publish=False)
    world.publish(pod, "shop")
    assert world.add(pod, "shop") == (0, "")
    other = world.node.pod("elsewhere", namespace="shop", publish=False)
    called = world.runtime.call("CHECK", namespace="shop", name="twice", netns=other.netns_path)
    assert called.code == 1
    assert "replaced" in called.message


def test_a_pod_that_nobody_knows_does_not_start(ghost: Future[tuple[int, str]]) -> None:
    code, message = ghost.result()
    assert code == 1
    assert "shop/ghost" in message
    assert "has not heard of it" in message


def test_uninstall_takes_the_plugin_out_again(world: World) -> None:
    """Last: it ends the node."""
    agent = world.node.running_agent
    assert agent is not None
    agent.stop()
    pod = world.node.pod("late", namespace="shop", publish=False)
    code, message = world.add(pod, "shop")  # waits: an agent may be on its way back
    assert code == 1
    assert "no agent answers" in message
    directories = (
        f"--cni-conf-dir={world.runtime.conf_dir}",
        f"--cni-bin-dir={world.runtime.bin_dir}",
    )
    world.node.meshnode("uninstall", "--yes", *directories).check()
    tree = json.loads((world.runtime.conf_dir / "10-pods.conflist").read_text())
    assert tree == CONFLIST
    assert list(world.runtime.bin_dir.iterdir()) == []
