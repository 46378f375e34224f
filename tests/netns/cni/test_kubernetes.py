"""A starting pod of a cluster: no address at the API server, no process, and yet captured first."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.admin.client import AdminClient, AgentNotRunning, AgentRefused
from agent.admin.view import NodeStatus, PodState
from agent.cni.build import NAME, build
from tests.lab import Lab, Node, Pod, eventually
from tests.lab.objects import KubeObject, kube_object, namespace_object, service_account_object
from tests.lab.system import NETNS_ROOT
from tests.netns.cni.cluster import Cluster, cluster_in
from tests.netns.cni.runtime import Called, Runtime

pytestmark = [pytest.mark.root, pytest.mark.slow]

PORT = 8080
CONFLIST = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "none"}]}


@dataclass(frozen=True, slots=True)
class World:
    """One node of a cluster, with its runtime."""

    cluster: Cluster
    node: Node
    runtime: Runtime

    def schedule(self, pod: Pod, namespace: str) -> None:
        """What the API server knows of a pod before its sandbox is made."""
        self.cluster.apply(
            service_account_object(namespace, pod.name), self._object(pod, namespace)
        )

    def add(self, pod: Pod, namespace: str) -> Called:
        return self.runtime.call(
            "ADD",
            namespace=namespace,
            name=pod.name,
            uid=uid_of(pod),
            netns=pod.netns_path,
            address=pod.address4,
        )

    def status(self) -> NodeStatus | None:
        try:
            return AdminClient(self.node.name, self.node.paths.admin_socket).status()
        except (AgentNotRunning, AgentRefused):
            return None

    def _object(self, pod: Pod, namespace: str) -> KubeObject:
        made = kube_object(
            "v1",
            "Pod",
            pod.name,
            namespace=namespace,
            labels={"app": pod.name},
            spec={"nodeName": self.node.name, "serviceAccountName": pod.name},
            status={"phase": "Pending"},
        )
        metadata = made["metadata"]
        assert isinstance(metadata, dict)
        return {**made, "metadata": {**metadata, "uid": uid_of(pod)}}


def host_proc(path: Path) -> Path:
    """A process file system without a process of a pod: that of a starting pod's node. The real
    one cannot be read everywhere that tests run."""
    (path / "1" / "ns").mkdir(parents=True)
    (path / "self").symlink_to("1")
    (path / "1" / "ns" / "net").symlink_to(f"/proc/{os.getpid()}/ns/net")
    return path


def uid_of(pod: Pod) -> str:
    """A uid as the API server gives; made of the name, so that each pod has another."""
    return f"00000000-0000-4000-8000-{pod.name.encode().hex()[:12]:0<12}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("cni")
    runtime = Runtime(conf_dir=directory / "net.d", bin_dir=directory / "bin")
    runtime.conf_dir.mkdir()
    (runtime.conf_dir / "10-pods.conflist").write_text(json.dumps(CONFLIST))
    build(directory / NAME)
    with Lab("cni-kube") as lab:
        node = lab.node("a")
        with cluster_in(str(NETNS_ROOT / node.netns)) as cluster:
            cluster.apply(
                namespace_object("shop", enrolled=True), namespace_object("plain", enrolled=False)
            )
            kubeconfig = cluster.write_kubeconfig(lab.directory / "kubeconfig")
            agent = lab.start_meshnode(
                node.place,
                "agent",
                *("agent", "--node", node.name, f"--source=kubernetes:{kubeconfig}"),
                f"--host-proc={host_proc(directory / 'proc')}",
                *("--cgroup", str(node.pods_cgroup), "--ca", str(lab.directory / "ca")),
                *("--workers=1", "--drain-timeout=1s", "--cni=true", "--cni-timeout=20s"),
                *(f"--cni-plugin={directory / NAME}", f"--cni-bin-dir={runtime.bin_dir}"),
                f"--cni-conf-dir={runtime.conf_dir}",
            )
            made = World(cluster, node, runtime)
            try:
                eventually(made.status, 40, "the agent answers")
                eventually((runtime.bin_dir / NAME).is_file, 30.0, "the plugin is installed")
                yield made
            except BaseException as error:
                error.add_note(agent.output[-6000:])
                raise
            finally:
                agent.stop()
                node.meshnode("uninstall", "--yes", "--cni-conf-dir=/nonexistent").check()


def state_of(world: World, name: str) -> PodState | None:
    status = world.status()
    found = [pod.state for pod in status.pods if pod.name == name] if status else []
    return found[0] if found else None


def test_its_first_connection_is_captured(world: World) -> None:
    client = world.node.pod("client", namespace="shop", publish=False)
    server = world.node.pod("server", namespace="shop", publish=False)
    for pod in (server, client):
        world.schedule(pod, "shop")
        called = world.add(pod, "shop")
        assert called.code == 0, called.message
        assert called.answer == Runtime.result(pod.address4, pod.netns_path)
        assert state_of(world, pod.name) is PodState.ACTIVE
    server.start([sys.executable, "-m", "http.server", str(PORT)]).wait_listening(PORT)
    argv = ["curl", "-sS", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code}"]
    answer = client.run([*argv, f"http://{server.address4}:{PORT}/"])
    assert answer.stdout == "200"


def test_a_pod_outside_the_mesh_is_let_go_on(world: World) -> None:
    pod = world.node.pod("other", namespace="plain", publish=False)
    world.schedule(pod, "plain")
    assert world.add(pod, "plain").code == 0
    assert state_of(world, "other") is None


def test_a_pod_of_another_uid_does_not_take_its_place(world: World) -> None:
    """The API server still knows the pod of this name that went: the plugin waits for the new."""
    pod = world.node.pod("again", namespace="shop", publish=False)
    world.schedule(pod, "shop")
    called = world.runtime.call(
        "ADD",
        namespace="shop",
        name="again",
        uid="00000000-0000-4000-8000-ffffffffffff",
        netns=pod.netns_path,
        address=pod.address4,
    )
    assert called.code == 1
    assert "has not heard of it" in called.message
