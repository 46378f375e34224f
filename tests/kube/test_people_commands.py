"""enroll, unenroll and waypoint against an API server: what is written, shown and refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import yaml

from agent.cli.analyze import Analysis
from agent.cli.enroll import DATAPLANE, USE_WAYPOINT, Enrolled
from agent.cli.waypoint import Waypoints, gateway
from tests.kube.test_connect import kubeconfig
from tests.support.kube_api import KubeApiServer
from tests.unit.agent.cli.invoke import error_of, meshnode

NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
    "spec": {"nodeName": "n1", "serviceAccountName": "default"},
    "status": {"phase": "Running", "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}]},
}


class Cluster:
    """An API server in a thread of its own, and a kubeconfig that leads to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: KubeApiServer, file: Path) -> None:
        self._loop = loop
        self.server = server
        self.file = str(file)

    def apply(self, *manifests: Mapping[str, object]) -> None:
        asyncio.run_coroutine_threadsafe(self.server.apply(*manifests), self._loop).result(10)

    def labels(self, plural: str, namespace: str, name: str) -> Mapping[str, object]:
        item = self.server.store.get(plural, (namespace, name))
        metadata = item["metadata"]
        assert isinstance(metadata, dict)
        labels = metadata.get("labels", {})
        assert isinstance(labels, dict)
        return labels


@contextmanager
def running(path: Path) -> Iterator[Cluster]:
    ready = threading.Event()
    found: list[Cluster] = []
    stops: list[asyncio.Event] = []

    async def serve() -> None:
        server = KubeApiServer(has_gateway_api=True)
        async with server.running():
            stops.append(asyncio.Event())
            file = kubeconfig(path, {"server": f"http://127.0.0.1:{server.port}"}, {})
            found.append(Cluster(asyncio.get_running_loop(), server, file))
            ready.set()
            await stops[0].wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(20)
    try:
        yield found[0]
    finally:
        found[0]._loop.call_soon_threadsafe(stops[0].set)
        thread.join(20)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running(tmp_path) as made:
        made.apply(NAMESPACE, POD)
        yield made


def test_a_namespace_goes_in_and_out(cluster: Cluster) -> None:
    to = ("--kubeconfig", cluster.file)
    dry = meshnode("enroll", "shop", "--waypoint", "gate", "--dry-run", *to)
    assert (
        dry.stdout == "shop: would change dataplane unset -> enabled, use-waypoint unset -> gate\n"
    )
    assert cluster.labels("namespaces", "", "shop") == {}
    assert meshnode("enroll", "shop", "--waypoint", "gate", *to).exit_code == 0
    assert cluster.labels("namespaces", "", "shop") == {DATAPLANE: "enabled", USE_WAYPOINT: "gate"}
    assert meshnode("enroll", "shop", *to).stdout == "shop: nothing to change\n"
    result = meshnode("unenroll", "shop", "shop/web", *to, "-o", "json")
    found = msgspec.json.decode(result.stdout, type=Enrolled)
    assert [one.changed for one in found.targets] == [True, True]
    assert cluster.labels("namespaces", "", "shop") == {}
    assert cluster.labels("pods", "shop", "web") == {"app": "web", DATAPLANE: "disabled"}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("shop/none", "there is no pod shop/none"),
        ("a/b/c", "write NAMESPACE"),
        ("x", "no namespace"),
    ],
)
def test_what_is_not_there_is_said(cluster: Cluster, target: str, message: str) -> None:
    result = meshnode("enroll", target, "--kubeconfig", cluster.file, "-o", "json")
    assert (result.exit_code, message in error_of(result)["message"]) == (1, True)


def test_a_waypoint_from_apply_to_delete(cluster: Cluster) -> None:
    to = ("-n", "shop", "--kubeconfig", cluster.file)
    made = meshnode("waypoint", "apply", "gate", "--enroll-namespace", "--replicas", "2", *to)
    assert (made.exit_code, "the controller has not looked" in made.stdout) == (0, True)
    assert cluster.labels("namespaces", "", "shop") == {USE_WAYPOINT: "gate"}
    assert meshnode("waypoint", "status", "gate", *to).exit_code == 1
    item: dict[str, object] = dict(gateway("shop", "gate", 2))
    item["status"] = {
        "conditions": [{"type": "Programmed", "status": "True"}],
        "addresses": [{"type": "IPAddress", "value": "10.96.1.1"}],
    }
    labels = {"istio.io/use-waypoint": "gate"}
    metadata = {"name": "old", "namespace": "shop", "labels": labels}
    cluster.apply(item)
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {}})
    assert meshnode("waypoint", "status", "gate", *to).exit_code == 0
    listed = meshnode("waypoint", "list", *to, "-o", "json")
    (one,) = msgspec.json.decode(listed.stdout, type=Waypoints).waypoints
    assert (one.programmed, one.addresses) == (True, ("10.96.1.1",))
    assert one.used_by == ("namespace shop", "service old")
    refused = meshnode("waypoint", "delete", "gate", *to)
    assert (refused.exit_code, "would be cut off" in refused.stderr) == (1, True)
    assert meshnode("waypoint", "delete", "gate", "--yes", *to).exit_code == 0
    assert meshnode("waypoint", "list", *to).stdout.endswith("0 waypoints\n")


def test_without_a_kubeconfig(tmp_path: Path) -> None:
    result = meshnode("waypoint", "list", "--kubeconfig", str(tmp_path / "none"))
    assert (result.exit_code, "use --kubeconfig FILE" in result.stderr) == (1, True)


def test_running_one_here_still_needs_its_name() -> None:
    result = meshnode("waypoint")
    assert (result.exit_code, "missing option '--name'" in result.stderr.lower()) == (1, True)


def test_the_gateway_is_what_the_controller_serves() -> None:
    made = gateway("shop", "gate", 3)
    assert made["spec"] == {
        "gatewayClassName": "meshnode-waypoint",
        "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
    }


ROUTE = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "lost", "namespace": "shop"},
    "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "nobody"}], "rules": []},
}


def test_a_cluster_is_analyzed_and_described(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(ROUTE)
    source = ("--source", f"kubernetes:{cluster.file}")
    found = meshnode("analyze", *source, "--threshold", "warning", "-o", "json")
    analysis = msgspec.json.decode(found.stdout, type=Analysis)
    lost = {one.code for one in analysis.findings if one.subject == "HTTPRoute shop/lost"}
    assert (found.exit_code, bool(lost)) == (1, True)
    new = tmp_path / "new"
    new.mkdir()
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "nobody", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80}]},
    }
    (new / "service.yaml").write_text(yaml.safe_dump(service))
    together = meshnode("analyze", str(new), *source, "-o", "json")
    codes = {one.code for one in msgspec.json.decode(together.stdout, type=Analysis).findings}
    assert lost - codes
    text = meshnode("describe", "pod", "shop/web", *source).stdout
    assert "Pod shop/web is outside the mesh" in text


def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, {"server": "http://127.0.0.1:9"}, {})
    result = meshnode("enroll", "shop", "--kubeconfig", str(file), "-o", "json")
    assert result.exit_code == 1
    assert error_of(result)["message"]
