"""The commands for people against a real API server, from enroll to uninstall."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import pytest

from tests.kube.real.cluster import SYSTEM, Cluster, eventually
from tests.unit.agent.cli.invoke import meshnode


@pytest.fixture
def market(cluster: Cluster) -> Iterator[str]:
    """A namespace with a service and a pod."""
    name = cluster.namespace(f"market-{uuid.uuid4().hex[:8]}")
    ports = [{"name": "http", "port": 80}]
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": name},
            "spec": {"selector": {"app": "web"}, "ports": ports},
        }
    )
    cluster.pod(name, "web", "default")
    cluster.runs(name, "web", "10.1.0.9")
    yield name
    cluster.end_pods(name)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def labels(cluster: Cluster, *what: str) -> dict[str, str]:
    metadata = cluster.get(*what)["metadata"]
    assert isinstance(metadata, dict)
    own = metadata.get("labels", {})
    return {key: text for key, text in own.items() if key.startswith("meshnode.io/")}


def test_namespaces_and_pods_join_and_leave(cluster: Cluster, market: str) -> None:
    to = ("--kubeconfig", cluster.file)
    dry = meshnode("enroll", market, "--dry-run", *to)
    assert (dry.exit_code, labels(cluster, "namespace", market)) == (0, {}), dry.output
    done = meshnode("enroll", market, f"{market}/web", *to)
    assert done.exit_code == 0, done.output
    joined = {"meshnode.io/dataplane": "enabled"}
    assert labels(cluster, "namespace", market) == joined
    assert labels(cluster, "-n", market, "pod", "web") == joined
    assert meshnode("unenroll", market, f"{market}/web", *to).exit_code == 0
    assert labels(cluster, "namespace", market) == {}
    assert labels(cluster, "-n", market, "pod", "web") == {"meshnode.io/dataplane": "disabled"}


def test_a_waypoint_from_apply_to_delete(cluster: Cluster, market: str) -> None:
    to = ("-n", market, "--kubeconfig", cluster.file)
    made = meshnode("waypoint", "apply", "gate", "--enroll-namespace", "--replicas", "2", *to)
    assert made.exit_code == 0, made.output
    again = meshnode("waypoint", "apply", "gate", "--replicas", "3", *to)
    assert again.exit_code == 0, again.output
    listed = meshnode("waypoint", "list", *to, "-o", "json")
    (one,) = json.loads(listed.stdout)["waypoints"]
    assert (one["name"], one["used_by"]) == ("gate", [f"namespace {market}"])
    # No controller has looked at it here.
    assert meshnode("waypoint", "status", "gate", *to).exit_code == 1
    assert meshnode("waypoint", "delete", "gate", *to).exit_code == 1
    assert meshnode("waypoint", "delete", "gate", "--yes", *to).exit_code == 0
    assert cluster.get("-n", market, "gateways.gateway.networking.k8s.io")["items"] == []


def test_the_cluster_is_analyzed_checked_and_described(cluster: Cluster, market: str) -> None:
    source = ("--source", f"kubernetes:{cluster.file}")
    analysis = meshnode("analyze", *source, "-o", "json")
    assert analysis.exit_code in (0, 1), analysis.output
    assert isinstance(json.loads(analysis.stdout)["findings"], list)
    check = meshnode("check", "--cluster", "--kubeconfig", cluster.file, "-o", "json")
    names = {one["name"]: one["state"] for one in json.loads(check.stdout)["checks"]}
    assert names["kinds"] == "ok", check.output
    text = meshnode("describe", "pod", f"{market}/web", *source)
    assert (text.exit_code, "is outside the mesh" in text.stdout) == (0, True), text.output


WRONG = {
    "AuthorizationPolicy": {"action": "CUSTOM"},
    "PeerAuthentication": {"portLevelMtls": {"80": {"mode": "STRICT"}}},
    "RequestAuthentication": {
        "selector": {"matchLabels": {"a": "b"}},
        "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
    },
    "TrafficPolicy": {"targetRefs": []},
}


@pytest.mark.parametrize(("kind", "spec"), WRONG.items())
def test_what_is_wrong_in_itself_is_refused_with_the_reason(
    cluster: Cluster, market: str, kind: str, spec: dict[str, object]
) -> None:
    said = cluster.refusal(
        {
            "apiVersion": "meshnode.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": "wrong", "namespace": market},
            "spec": spec,
        }
    )
    assert "is invalid" in said


def test_uninstall_leaves_nothing_of_ours(cluster: Cluster) -> None:
    """The last test of this file; what others need is put in place again."""
    to = ("--kubeconfig", cluster.file)
    done = meshnode("uninstall", "--cluster", "--crds", "--yes", *to)
    assert done.exit_code == 0, done.output
    try:
        names = ("api-resources", "--verbs=list", "-o", "name", "--cached=false")
        kinds = cluster.kubectl(*names).stdout.split()
        # Some are listed that a moment ago were there, and some that are none: those are left out.
        selector = ("-l", "app.kubernetes.io/part-of=meshnode", "-A", "-o", "name")

        def left() -> str:
            return "".join(cluster.server.kubectl("get", kind, *selector).stdout for kind in kinds)

        eventually(lambda: not left(), "all that was installed is gone")
        eventually(
            lambda: cluster.server.kubectl("get", "namespace", SYSTEM).returncode != 0,
            "the namespace is gone",
        )
        eventually(
            lambda: ".meshnode.io" not in cluster.kubectl(*names).stdout, "our kinds are gone"
        )
        again = meshnode("uninstall", "--cluster", "--yes", *to)
        assert "nothing was installed" in again.output, again.output
    finally:
        cluster.prepare()
