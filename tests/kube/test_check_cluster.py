"""`meshnode check --cluster` against an API server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from agent.cli.check import Report
from agent.cli.checks.result import State
from agent.cli.output.exits import Exit
from tests.kube.test_people_commands import NAMESPACE, Cluster, running
from tests.unit.agent.cli.invoke import meshnode

CILIUM = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "cilium-config", "namespace": "kube-system"},
    "data": {"kube-proxy-replacement": "true", "cni-exclusive": "false"},
}
CONTROLLER = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "meshnode-controller", "namespace": "meshnode-system"},
    "spec": {"replicas": 2},
    "status": {"readyReplicas": 1},
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running(tmp_path) as made:
        made.apply(NAMESPACE)
        yield made


def states(cluster: Cluster, wanted_exit: int) -> Mapping[str, tuple[State, str]]:
    argv = ("check", "--cluster", "--kubeconfig", cluster.file, "-o", "json")
    result = meshnode(*argv)
    assert result.exit_code == wanted_exit, result.output
    report = msgspec.json.decode(result.stdout, type=Report)
    assert report.passed is (wanted_exit == 0)
    return {one.name: (one.state, one.detail) for one in report.checks}


def test_before_the_install_nothing_fails(cluster: Cluster) -> None:
    found = states(cluster, 0)
    assert found["kinds"][0] is State.OK
    assert found["meshnode-agent"][0] is State.SKIPPED
    assert "meshnode install" in found["meshnode-agent"][1]
    assert found["enrolled namespaces"][0] is State.SKIPPED
    assert found["conflicts"][0] is State.OK


def test_what_is_in_the_way_is_named(cluster: Cluster) -> None:
    cluster.apply(CILIUM, CONTROLLER)
    found = states(cluster, 1)
    assert found["Cilium: socket load balancing"][0] is State.FAILED
    assert found["meshnode-controller"] == (State.FAILED, "1 of 2 pods are ready")


def test_people_get_hints(cluster: Cluster) -> None:
    cluster.apply(CILIUM)
    text = meshnode("check", "--cluster", "--kubeconfig", cluster.file).stdout
    assert "socketLB.hostNamespaceOnly=true" in text
    assert "docs/troubleshooting.md#conflicts" in text


def test_without_a_cluster_it_says_what_to_do(tmp_path: Path) -> None:
    result = meshnode("check", "--cluster", "--kubeconfig", str(tmp_path / "none"))
    assert result.exit_code == Exit.NEGATIVE
    assert "use --kubeconfig FILE" in result.stderr
