"""Objects in, snapshot out; and the difference between two snapshots over the wire."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from mesh.errors import ConfigError
from mesh.model.address import parse_ip
from mesh.model.codes import Code
from mesh.model.policy import AuthorizationPolicy, PeerAuthentication, PolicyKey, PolicyScope
from mesh.model.snapshot import MeshSnapshot, PathNormalization, SameNode
from mesh.model.workload import Service, ServiceKey, Workload, WorkloadUid
from mesh.sources.file_state import FileState, read_text
from mesh.sources.objects import ObjectSet
from mesh.state.delta import apply_delta, decode_delta, diff, encode_delta
from mesh.state.reducer import reduce
from tests.unit.mesh.policy import build

SHOP = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {meshnode.io/dataplane: enabled, istio.io/use-waypoint: wp}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: api, namespace: shop}
---
"""
API = """\
apiVersion: v1
kind: Pod
metadata:
  name: api-7d4-x
  namespace: shop
  labels: {app: api, version: v2, pod-template-hash: 7d4, istio.io/use-waypoint: none}
  annotations:
    meshnode.io/exclude-outbound-ports: "53, 9000"
    meshnode.io/exclude-outbound-cidrs: 169.254.0.0/16
    meshnode.io/exclude-outbound-uids: "101"
    meshnode.io/exclude-inbound-ports: "9090"
    meshnode.io/egress-bandwidth: 10Mi
    meshnode.io/netns: /run/netns/api
  ownerReferences: [{kind: ReplicaSet, name: api-7d4, controller: true}]
spec:
  nodeName: n1
  serviceAccountName: api
  containers: [{ports: [{name: http, containerPort: 8080}]}]
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  selector: {app: api}
  ports: [{name: web, port: 80, targetPort: http}, {name: dns, port: 53, protocol: UDP}]
---
"""


def build_from(text: str, previous: MeshSnapshot | None = None) -> MeshSnapshot:
    """Reduce the objects of a text."""
    state = read_text("f.yaml", text.encode(), FileState())
    return reduce(ObjectSet(objects=state.objects, problems=state.problems), previous)


def pod(snapshot: MeshSnapshot, name: str = "api-7d4-x") -> Workload:
    """The pod of a name in shop."""
    return snapshot.workloads[WorkloadUid(f"pod/shop/{name}")]


def api_service(snapshot: MeshSnapshot) -> Service:
    """The service shop/api."""
    return snapshot.services[ServiceKey("shop/api")]


def test_a_pod_becomes_a_workload() -> None:
    snapshot = build_from(SHOP + API)
    api = pod(snapshot)
    assert snapshot.problems == ()
    assert api.enrolled
    assert api.node == "n1"
    assert api.addresses == (parse_ip("10.0.0.1"), parse_ip("fd00::1"))
    assert str(api.identity) == "spiffe://cluster.local/ns/shop/sa/api"
    assert (api.app_name, api.canonical_service, api.canonical_revision) == ("api", "api", "v2")
    assert api.netns == "/run/netns/api"
    assert api.waypoint is None
    assert api.exclusions.outbound_ports == {53, 9000}
    assert [str(network) for network in api.exclusions.outbound_cidrs] == ["169.254.0.0/16"]
    assert api.exclusions.outbound_uids == {101}
    assert api.egress_bytes_per_s == 10 << 20
    assert api.exclusions.inbound_ports == {9090}


@pytest.mark.parametrize(
    ("labels", "spec", "enrolled"),
    [
        ("{}", "{}", True),
        ("{meshnode.io/dataplane: disabled}", "{}", False),
        ("{istio.io/dataplane-mode: none}", "{}", False),
        ("{}", "{hostNetwork: true}", False),
        ("{gateway.networking.k8s.io/gateway-name: wp}", "{}", False),
    ],
)
def test_enrolment(labels: str, spec: str, enrolled: bool) -> None:
    text = (
        "apiVersion: v1\nkind: Pod\n"
        f"metadata: {{name: p, namespace: shop, labels: {labels}}}\n"
        f"spec: {spec}\nstatus: {{podIP: 10.0.0.9}}\n"
    )
    assert pod(build_from(SHOP + text), "p").enrolled is enrolled


GATEWAY = """\
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop, labels: {LABELS}}
spec: {gatewayClassName: meshnode-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
"""


@pytest.mark.parametrize(
    ("labels", "of_service", "of_workload"),
    [
        ("", True, False),
        ("istio.io/waypoint-for: service", True, False),
        ("meshnode.io/waypoint-for: workload", False, True),
        ("meshnode.io/waypoint-for: all, istio.io/waypoint-for: none", True, True),
        ("meshnode.io/waypoint-for: none", False, False),
        ("meshnode.io/waypoint-for: everybody", True, True),
    ],
)
def test_a_waypoint_takes_the_traffic_it_is_for(
    labels: str, of_service: bool, of_workload: bool
) -> None:
    text = SHOP + API.replace(", istio.io/use-waypoint: none", "") + SERVICE
    without = build_from(text)
    assert api_service(without).waypoint == pod(without).waypoint == "shop/wp"
    found = build_from(text + GATEWAY.replace("LABELS", labels))
    assert api_service(found).waypoint == ("shop/wp" if of_service else None)
    assert pod(found).waypoint == ("shop/wp" if of_workload else None)
    bad = [problem.message for problem in found.problems if problem.code is Code.BAD_LABEL]
    assert bad == (
        [
            "label meshnode.io/waypoint-for: 'everybody' is not one of service, workload, all,"
            " none: everything has to pass it"
        ]
        if "everybody" in labels
        else []
    )


def test_who_asks_for_a_waypoint_that_takes_none_of_its_traffic_is_told() -> None:
    text = SHOP + API.replace("use-waypoint: none", "use-waypoint: wp") + SERVICE
    found = build_from(text + GATEWAY.replace("LABELS", ""))
    [unfit] = [p for p in found.problems if p.code is Code.WAYPOINT_UNFIT]
    assert unfit.subject == "Pod shop/api-7d4-x"
    assert "takes only traffic for services" in unfit.message


def test_a_gateway_of_another_class_is_no_waypoint() -> None:
    text = SHOP + API.replace(", istio.io/use-waypoint: none", "") + SERVICE
    gateway = GATEWAY.replace("LABELS", "").replace("meshnode-waypoint", "cilium")
    found = build_from(text + gateway)
    assert api_service(found).waypoint == pod(found).waypoint == "shop/wp"


def test_the_namespace_gives_its_waypoint() -> None:
    text = API.replace(", istio.io/use-waypoint: none", "")
    assert pod(build_from(SHOP + text)).waypoint == "shop/wp"


def test_endpoints_follow_the_selector_where_there_is_no_slice() -> None:
    service = api_service(build_from(SHOP + API + SERVICE))
    assert service.hostname == "api.shop.svc.cluster.local"
    assert [port.port for port in service.ports] == [80]
    assert [(str(e.address), e.workload, dict(e.ports), e.ready) for e in service.endpoints] == [
        ("10.0.0.1", "pod/shop/api-7d4-x", {80: 8080}, True),
        ("fd00::1", "pod/shop/api-7d4-x", {80: 8080}, True),
    ]


def test_slices_replace_the_selector() -> None:
    text = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-1, namespace: shop, labels: {kubernetes.io/service-name: api}}
addressType: IPv4
ports: [{name: web, port: 8081}]
endpoints:
- {addresses: [10.0.0.1], conditions: {ready: false}, targetRef: {kind: Pod, name: api-7d4-x}}
- {addresses: [192.0.2.1]}
"""
    service = api_service(build_from(SHOP + API + SERVICE + text))
    assert [(str(e.address), e.workload, dict(e.ports), e.ready) for e in service.endpoints] == [
        ("10.0.0.1", "pod/shop/api-7d4-x", {80: 8081}, False),
        ("192.0.2.1", None, {80: 8081}, True),
    ]


def test_a_standalone_workload_and_the_settings() -> None:
    text = """\
apiVersion: meshnode.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  trustDomain: td
  trustDomainAliases: [old]
  rootNamespace: root
  sameNode: encrypt
  pathNormalization: MERGE_SLASHES
---
apiVersion: meshnode.io/v1alpha1
kind: Workload
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {node: n2, addresses: [10.0.0.5], netns: /run/netns/db, serviceAccount: db}
---
apiVersion: meshnode.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: none, namespace: root}
spec: {}
"""
    snapshot = build_from(SHOP + text)
    workload = snapshot.workloads[WorkloadUid("workload/shop/db")]
    assert str(workload.identity) == "spiffe://td/ns/shop/sa/db"
    assert (workload.node, workload.netns, workload.enrolled) == ("n2", "/run/netns/db", True)
    assert snapshot.settings.same_node is SameNode.ENCRYPT
    assert snapshot.settings.path_normalization is PathNormalization.MERGE_SLASHES
    policy = snapshot.policies[PolicyKey("root/none")]
    assert isinstance(policy, AuthorizationPolicy)
    assert policy.scope is PolicyScope.MESH
    (problem,) = snapshot.problems
    assert problem.message == "service account 'db' is not defined in its namespace"


def test_bad_labels_and_annotations_are_named_and_the_pod_stays() -> None:
    text = API.replace('"101"', '"root"').replace("app: api,", "meshnode.io/dataplane: on1,")
    text = text.replace("10Mi", "fast")
    snapshot = build_from(SHOP + text)
    assert pod(snapshot).enrolled
    assert [problem.message for problem in snapshot.problems] == [
        "label meshnode.io/dataplane: 'on1' is not 'enabled' or 'disabled'; it is ignored",
        "annotation meshnode.io/exclude-outbound-uids: 'root' is not a user id",
        "annotation meshnode.io/egress-bandwidth: 'fast' is not bytes per second, such as 512Ki",
    ]


def test_nothing_new_is_the_same_snapshot_and_the_unchanged_stays() -> None:
    before = build_from(SHOP + API + SERVICE)
    assert build_from(SHOP + API + SERVICE, before) is before
    after = build_from(SHOP + API + SERVICE.replace("port: 80,", "port: 81,"), before)
    assert after.revision == before.revision + 1
    assert after.workloads is before.workloads
    assert api_service(after) != api_service(before)


def test_whoever_held_an_address_keeps_it() -> None:
    before = build_from(SHOP + API)
    thief = API.replace("api-7d4-x", "a-thief")
    after = build_from(SHOP + thief + API, before)
    assert list(after.workloads) == ["pod/shop/api-7d4-x"]
    assert "address 10.0.0.1 belongs to Pod shop/api-7d4-x" in after.problems[0].message


def test_two_services_with_one_address() -> None:
    snapshot = build_from(SHOP + SERVICE + SERVICE.replace("name: api", "name: web"))
    assert snapshot.by_vip[parse_ip("10.96.0.1")].name == "api"
    assert "address 10.96.0.1 belongs to Service shop/api" in snapshot.problems[0].message


def test_a_delta_over_the_wire_leads_to_the_new_snapshot() -> None:
    before = build_from(SHOP + API)
    text = SHOP + API.replace("nodeName: n1", "nodeName: n2") + SERVICE + "---\nkind: X\n"
    after = build_from(text, before)
    start = MeshSnapshot(revision=0)
    first = apply_delta(start, decode_delta(encode_delta(diff(start, before))))
    assert first == before
    second = apply_delta(first, decode_delta(encode_delta(diff(before, after))))
    assert second == after
    back = apply_delta(second, decode_delta(encode_delta(diff(after, before))))
    assert back == before


@settings(max_examples=100, deadline=None)
@given(policies=build.policy_sets(), authentications=build.authentication_sets())
def test_every_policy_survives_the_wire(
    policies: tuple[AuthorizationPolicy, ...], authentications: tuple[PeerAuthentication, ...]
) -> None:
    start = MeshSnapshot(revision=0)
    snapshot = build.snapshot(
        build.workload("a"), policies=policies, authentications=authentications
    )
    assert apply_delta(start, decode_delta(encode_delta(diff(start, snapshot)))) == snapshot


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x9c" + b"\xa1x" * 12])
def test_bytes_that_are_no_delta_are_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        decode_delta(data)


def test_a_delta_of_another_revision_is_refused() -> None:
    one, two = MeshSnapshot(revision=1), MeshSnapshot(revision=2)
    with pytest.raises(ConfigError, match="does not fit"):
        apply_delta(one, diff(two, MeshSnapshot(revision=3)))
