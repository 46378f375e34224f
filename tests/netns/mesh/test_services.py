"""ClusterIPs: who answers, by which path, how evenly, and on which port."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from tests.lab import Pod, eventually
from tests.lab.objects import Json, KubeObject, endpoint_slice_object, kube_object, service_object
from tests.netns.mesh.apps.serve import EXTRA, SPEAK_FIRST
from tests.netns.mesh.world import APPS, PYTHON, Mesh, own_port

pytestmark = pytest.mark.root

VIPS = {
    "local": ("10.96.1.1", "fd00:96::1"),
    "remote": ("10.96.1.2", "fd00:96::2"),
    "mixed": ("10.96.1.3", "fd00:96::3"),
    "named": ("10.96.1.4", "fd00:96::4"),
    "empty": ("10.96.1.5", "fd00:96::5"),
    "sliced": ("10.96.1.6", "fd00:96::6"),
    "outside": ("10.96.1.7", "fd00:96::7"),
}
PORT = 80


@pytest.fixture(scope="module")
def services(mesh: Mesh) -> Mesh:
    """A service of each kind; `mixed` has two pods on each node."""
    for node, name, kind in (
        (mesh.a, "local", "local"),
        (mesh.b, "remote", "remote"),
        (mesh.a, "mixed-a1", "mixed"),
        (mesh.a, "mixed-a2", "mixed"),
        (mesh.b, "mixed-b1", "mixed"),
        (mesh.b, "mixed-b2", "mixed"),
    ):
        mesh.add_pod(node, name, pool=kind)
    name_port(mesh["far"])
    mesh.lab.settle()
    selected = [service(kind, {"pool": kind}) for kind in ("local", "remote", "mixed", "empty")]
    sliced = service("sliced", {}), slices("default", "sliced", mesh["near"])
    outside = service("outside", {}), slices("default", "outside", mesh["stranger"])
    mesh.apply("services", [*selected, *flat(sliced), *flat(outside), named_port(mesh["far"])])
    return mesh


def service(name: str, selector: Mapping[str, str]) -> KubeObject:
    return service_object(
        "default",
        name,
        cluster_ips=VIPS[name],
        port=PORT,
        target_port=SPEAK_FIRST,
        selector=selector,
    )


def slices(namespace: str, name: str, pod: Pod) -> list[KubeObject]:
    return [
        endpoint_slice_object(namespace, name, family=family, addresses=[address], port=SPEAK_FIRST)
        for family, address in (("IPv4", pod.address4), ("IPv6", pod.address6))
    ]


def flat(pair: tuple[KubeObject, list[KubeObject]]) -> list[KubeObject]:
    return [pair[0], *pair[1]]


def name_port(pod: Pod) -> None:
    """Let the pod name one of its ports."""
    ports: Json = [{"name": "web", "containerPort": EXTRA}]
    account, described = pod.objects()
    spec = described["spec"]
    assert isinstance(spec, Mapping)
    pod.node.lab.apply(
        f"pod-default-{pod.name}",
        [account, {**described, "spec": {**spec, "containers": [{"ports": ports}]}}],
    )


def named_port(pod: Pod) -> KubeObject:
    """A service whose targetPort is the name of a port of `pod`."""
    return kube_object(
        "v1",
        "Service",
        "named",
        namespace="default",
        spec={
            "clusterIP": VIPS["named"][0],
            "clusterIPs": list(VIPS["named"]),
            "selector": {"app": pod.name},
            "ports": [{"port": PORT, "targetPort": "web"}],
        },
    )


def spread(mesh: Mesh, address: str, count: int) -> tuple[Mapping[str, int], list[str]]:
    argv = [*PYTHON, str(APPS / "spread.py"), address, str(PORT), str(count)]
    answer = json.loads(mesh["client"].run(argv, timeout_s=60).check().stdout)
    return answer["servers"], answer["seen_as"]


@pytest.mark.parametrize("family", [0, 1])
@pytest.mark.parametrize(
    ("name", "server", "path"),
    [("local", "local", "direct"), ("remote", "remote", "hbone"), ("sliced", "near", "direct")],
)
def test_a_service_of_one_pod(
    services: Mesh, name: str, server: str, path: str, family: int
) -> None:
    vip = VIPS[name][family]
    answer = services.dial("client", vip, PORT)
    client = services["client"]
    assert answer["server"] == server
    assert answer["peer"] == [vip, PORT]
    assert answer["seen_as"] == (client.address4, client.address6)[family]
    record = services.record(port=own_port(answer), direction="outbound")
    assert (record["path"], record["dst.service"]) == (path, f"default/{name}")


@pytest.mark.parametrize("family", [0, 1])
def test_connections_are_spread_over_both_nodes(services: Mesh, family: int) -> None:
    """400 connections, four pods: each gets a quarter, give or take 4.5 standard deviations."""
    before = len(services.records(dst_service="default/mixed", direction="outbound"))
    servers, seen_as = spread(services, VIPS["mixed"][family], 400)
    print(f"family {family}: {servers}")
    assert set(servers) == {"mixed-a1", "mixed-a2", "mixed-b1", "mixed-b2"}
    assert min(servers.values()) > 60
    assert max(servers.values()) < 140
    client = services["client"]
    assert seen_as == [(client.address4, client.address6)[family]]

    def paths() -> set[object]:
        found = services.records(dst_service="default/mixed", direction="outbound")[before:]
        return {record["path"] for record in found}

    eventually(lambda: paths() == {"direct", "hbone"}, what="records of both paths")


def test_a_target_port_by_name(services: Mesh) -> None:
    answer = services.dial("client", VIPS["named"][0], PORT)
    assert (answer["server"], answer["peer"]) == ("far", [VIPS["named"][0], PORT])
    # An earlier connection of another family may have had the same port: the address says which.
    address = f"{services['far'].address4}:{EXTRA}"
    services.record(port=own_port(answer), direction="inbound", dst_addr=address)


@pytest.mark.parametrize("family", [0, 1])
def test_a_service_without_endpoints_refuses(services: Mesh, family: int) -> None:
    answer = services.dial("client", VIPS["empty"][family], PORT)
    assert answer["error"] == "ECONNREFUSED"


@pytest.mark.parametrize("family", [0, 1])
def test_a_service_outside_the_mesh(services: Mesh, family: int) -> None:
    answer = services.dial("client", VIPS["outside"][family], PORT)
    assert answer["server"] == "stranger"
    assert answer["peer"] == [VIPS["outside"][family], PORT]


def test_curl_reaches_a_service(services: Mesh) -> None:
    argv = ["python3", "-m", "http.server", "80", "--bind", "::"]
    for name in ("local", "remote"):
        web = services[name].start(argv)
        web.wait_listening(80)
        services.lab.apply(f"web-{name}", web_service(name))
    services.lab.settle()
    for number, name in enumerate(("local", "remote")):
        curl = ["curl", "-sS", "--max-time", "20", "--retry", "3", "--retry-all-errors"]
        address = f"http://10.96.2.{number + 1}/"
        result = services["client"].run([*curl, "-o", "/dev/null", "-w", "%{http_code}", address])
        assert result.check().stdout == "200", name


def web_service(name: str) -> KubeObject:
    number = ("local", "remote").index(name) + 1
    return service_object(
        "default", f"web-{name}", cluster_ips=[f"10.96.2.{number}"], port=80, selector={"app": name}
    )
