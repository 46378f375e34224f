"""What /metrics and /healthz of both nodes say after traffic of every path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import pytest

from tests.lab import Node, eventually
from tests.netns.mesh.apps.serve import DIGEST
from tests.netns.mesh.world import Mesh

pytestmark = pytest.mark.root

COUNT = 5000
ANSWER = len(f"{COUNT} ") + 64 + 1
"""`COUNT SHA256` and a line end."""
_SAMPLE = re.compile(r"^([a-z_:]+)(?:\{(.*)\})? ([-+.eE0-9a-zA-Z]+)$")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


def scrape(node: Node, path: str = "/metrics") -> str:
    argv = ["curl", "-sS", "--max-time", "30", f"http://127.0.0.1:15020{path}"]
    return node.run(argv).check().stdout


def value(text: str, name: str, **wanted: str) -> float:
    """Sum of the samples of a metric whose labels are as wanted."""
    total = 0.0
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match and match[1] == name:
            labels = dict(_LABEL.findall(match[2] or ""))
            if wanted.items() <= labels.items():
                total += float(match[3])
    return total


@pytest.fixture(scope="module")
def after_traffic(mesh: Mesh) -> Mesh:
    """One upload per path, and one refused connection."""
    for src, dst in (("client", "far"), ("client", "near"), ("outsider", "far")):
        answer = mesh.dial(src, dst, DIGEST, do="upload", count=COUNT)
        assert answer["answer"] == answer["wanted"]
    return mesh


def labels(reporter: str, dst: str, src: str, security: str) -> Mapping[str, str]:
    named = {
        "reporter": reporter,
        "destination_workload": dst,
        "destination_workload_namespace": "default",
        "destination_principal": f"spiffe://cluster.local/ns/default/sa/{dst}",
        "destination_app": dst,
        "source_workload": src,
        "request_protocol": "tcp",
        "response_flags": "-",
        "connection_security_policy": security,
    }
    if src == "client":
        named["source_principal"] = "spiffe://cluster.local/ns/default/sa/client"
        named["source_workload_namespace"] = "default"
    return named


@pytest.mark.parametrize(
    ("node", "reporter", "src", "dst", "security"),
    [
        ("a", "source", "client", "far", "mutual_tls"),
        ("b", "destination", "client", "far", "mutual_tls"),
        ("a", "source", "client", "near", "none"),
        ("a", "destination", "client", "near", "none"),
        ("b", "destination", "outsider", "far", "none"),
    ],
)
def test_connections_and_bytes(
    after_traffic: Mesh, node: str, reporter: str, src: str, dst: str, security: str
) -> None:
    wanted = labels(reporter, dst, src, security)
    expected = {
        "istio_tcp_connections_opened_total": 1,
        "istio_tcp_connections_closed_total": 1,
        "istio_tcp_received_bytes_total": COUNT,
        "istio_tcp_sent_bytes_total": ANSWER,
    }

    def counted() -> bool:
        text = scrape(after_traffic.lab.nodes[node])
        found = {name: value(text, name, **wanted) for name in expected}
        assert found == expected
        return True

    eventually(counted, 30.0, f"{reporter} of {src} to {dst}")


def test_the_node_measures_itself(after_traffic: Mesh) -> None:
    for node, pods in ((after_traffic.a, 2), (after_traffic.b, 1)):
        text = scrape(node)
        assert value(text, "meshnode_pods", state="active") == pods
        assert value(text, "meshnode_workers", state="ready") == 2
        assert value(text, "meshnode_worker_restarts_total") == 0
        assert value(text, "meshnode_build_info") == 1
        assert value(text, "meshnode_snapshot_revision") >= 1
        assert value(text, "meshnode_certificate_expiry_timestamp_seconds") > 0
        assert value(text, "meshnode_map_capacity", map="mn_grant") > 0
        assert value(text, "meshnode_ring_lost_events_total") == 0
        assert value(text, "meshnode_access_log_dropped_total") == 0
    assert value(scrape(after_traffic.a), "meshnode_kernel_events_total", reason="direct") >= 1
    assert value(scrape(after_traffic.a), "meshnode_kernel_events_total", reason="captured") >= 1


def has_tunnels(node: Node) -> bool:
    return value(scrape(node), "meshnode_tunnels") >= 1


def test_tunnels_are_counted(after_traffic: Mesh) -> None:
    for node in (after_traffic.a, after_traffic.b):
        eventually(partial(has_tunnels, node), 30.0, "tunnels are counted")


@pytest.mark.parametrize("which", ["live", "ready"])
def test_health(after_traffic: Mesh, which: str) -> None:
    for node in (after_traffic.a, after_traffic.b):
        argv = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}"]
        answer = node.run([*argv, f"http://127.0.0.1:15020/healthz/{which}"]).check()
        assert answer.stdout == "200"
