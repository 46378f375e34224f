"""Whatever happens to a cluster, following it says the same as reading it anew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.snapshot import MeshSnapshot
from mesh.model.workload import WorkloadUid
from mesh.sources.decode import decode
from mesh.sources.objects import ObjectSet, SourceObject
from mesh.state.delta import apply_delta, decode_delta, diff, encode_delta
from mesh.state.reducer import Reducer, reduce

TRAFFIC = st.sampled_from(["service", "workload", "all", "none", "everything"])
NAMESPACES = st.sampled_from(["a", "a", "a", "b"])
NAMES = st.sampled_from(["x", "y"])
ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"])
VIPS = st.sampled_from(["10.96.0.1", "10.96.0.2", "None"])
Raw = Mapping[str, object]


def manifest(
    kind: str, version: str, namespace: str, name: str, meta: Raw | None = None, **body: object
) -> Raw:
    metadata = {"name": name, "namespace": namespace, **(meta or {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **body}


@st.composite
def namespaces(draw: st.DrawFn) -> Raw:
    labels = draw(
        st.sampled_from(
            [
                {},
                {"meshnode.io/dataplane": "enabled"},
                {"meshnode.io/dataplane": "on1"},
                {"meshnode.io/use-waypoint": "wp"},
            ]
        )
    )
    return manifest("Namespace", "v1", "", draw(NAMESPACES), {"labels": labels})


@st.composite
def pods(draw: st.DrawFn) -> Raw:
    labels: dict[str, str] = {"app": draw(NAMES)}
    if draw(st.booleans()):
        labels["gateway.networking.k8s.io/gateway-name"] = "wp"
    addresses = draw(st.lists(ADDRESSES, max_size=2, unique=True))
    spec: dict[str, object] = {
        "nodeName": draw(st.sampled_from(["n1", "n2"])),
        "serviceAccountName": draw(st.sampled_from(["", "x", "A"])),
        "containers": [{"ports": [{"name": "http", "containerPort": draw(st.integers(1, 2))}]}],
    }
    if draw(st.integers(0, 5)) == 0:
        spec["hostNetwork"] = True
    status: dict[str, object] = {
        "phase": draw(st.sampled_from(["Running", "Running", "Succeeded"])),
        "podIPs": [{"ip": address} for address in addresses],
        "conditions": [{"type": "Ready", "status": draw(st.sampled_from(["True", "False"]))}],
    }
    meta = {"labels": labels}
    return manifest("Pod", "v1", draw(NAMESPACES), draw(NAMES), meta, spec=spec, status=status)


@st.composite
def workloads(draw: st.DrawFn) -> Raw:
    spec = {"addresses": draw(st.lists(ADDRESSES, min_size=1, max_size=2, unique=True))}
    meta = {"labels": {"app": draw(NAMES)}}
    return manifest(
        "Workload", "meshnode.io/v1alpha1", draw(NAMESPACES), draw(NAMES), meta, spec=spec
    )


@st.composite
def services(draw: st.DrawFn) -> Raw:
    labels = draw(st.sampled_from([{}, {"meshnode.io/use-waypoint": "wp"}]))
    spec = {
        "clusterIP": draw(VIPS),
        "selector": draw(st.sampled_from([{}, {"app": "x"}, {"app": "y"}])),
        "ports": [{"port": 80, "targetPort": draw(st.sampled_from(["http", 80]))}],
    }
    return manifest("Service", "v1", draw(NAMESPACES), draw(NAMES), {"labels": labels}, spec=spec)


@st.composite
def slices(draw: st.DrawFn) -> Raw:
    labels = {} if draw(st.integers(0, 5)) == 0 else {"kubernetes.io/service-name": draw(NAMES)}
    endpoints: list[Raw] = []
    for _ in range(draw(st.integers(0, 3))):
        endpoint: dict[str, object] = {"addresses": [draw(ADDRESSES)]}
        if draw(st.booleans()):
            endpoint["targetRef"] = {"kind": "Pod", "name": draw(NAMES)}
        endpoints.append(endpoint)
    return {
        **manifest(
            "EndpointSlice",
            "discovery.k8s.io/v1",
            draw(NAMESPACES),
            draw(NAMES),
            {"labels": labels},
        ),
        "endpoints": endpoints,
        "ports": [{"port": draw(st.integers(1, 2))}],
    }


@st.composite
def others(draw: st.DrawFn) -> Raw:
    namespace, name = draw(NAMESPACES), draw(NAMES)
    ours = "meshnode.io/v1alpha1"
    target = [{"group": "", "kind": "Service", "name": draw(NAMES)}]
    return draw(
        st.sampled_from(
            [
                manifest("ServiceAccount", "v1", namespace, name),
                manifest(
                    "Gateway",
                    "gateway.networking.k8s.io/v1",
                    namespace,
                    "wp",
                    {"labels": {"meshnode.io/waypoint-for": draw(TRAFFIC)}},
                    spec={"gatewayClassName": "meshnode-waypoint"},
                ),
                manifest(
                    "MeshConfig",
                    ours,
                    "",
                    name,
                    spec={"trustDomain": draw(st.sampled_from(["one", "two"]))},
                ),
                manifest("AuthorizationPolicy", ours, namespace, name, spec={"targetRefs": target}),
                manifest("AuthorizationPolicy", "security.istio.io/v1", namespace, name, spec={}),
                manifest("PeerAuthentication", ours, namespace, name, spec={}),
                manifest(
                    "HTTPRoute",
                    "gateway.networking.k8s.io/v1",
                    namespace,
                    name,
                    spec={"parentRefs": target, "rules": [{}]},
                ),
            ]
        )
    )


MANIFESTS = st.one_of(namespaces(), pods(), pods(), workloads(), services(), slices(), others())


@st.composite
def histories(draw: st.DrawFn) -> list[list[SourceObject]]:
    """Sets of objects of which each is a few changes away from the one before."""
    start = draw(st.tuples(pods(), pods(), services(), services(), slices(), slices()))
    current: list[SourceObject] = []
    for raw in start:
        put(current, read(raw), duplicate=False)
    history = [current]
    for _ in range(draw(st.integers(4, 8))):
        current = list(current)
        for _ in range(draw(st.integers(1, 4))):
            way = draw(st.integers(0, 9))
            if way < 3 and current:
                current.pop(draw(st.integers(0, len(current) - 1)))
            elif way == 3:
                current.reverse()
            else:
                put(current, read(draw(MANIFESTS)), duplicate=way == 4)
        history.append(current)
    return history


def read(raw: Raw) -> SourceObject:
    version, metadata = str(raw["apiVersion"]).partition("/")[0], raw["metadata"]
    assert isinstance(metadata, dict)
    where = f"{raw['kind']}.{version} {metadata['namespace']}/{metadata['name']}"
    return decode(json.loads(json.dumps(raw)), where)


def put(objects: list[SourceObject], item: SourceObject, *, duplicate: bool) -> None:
    """Replace the object of a name where it stands, or add it."""
    for number, known in enumerate(objects):
        if known.where == item.where and not duplicate:
            objects[number] = known if known == item else item
            return
    objects.append(item)


@settings(max_examples=100, deadline=None)
@given(history=histories())
def test_following_says_the_same_as_reading_anew(history: Sequence[list[SourceObject]]) -> None:
    reducer = Reducer()
    before: MeshSnapshot | None = None
    received = MeshSnapshot(revision=0)
    for objects in history:
        found = reducer.reduce(ObjectSet(objects=tuple(objects)))
        anew = reduce(ObjectSet(objects=tuple(objects)), before)
        assert found == anew
        assert (found is before) == (anew is before)
        check_indexes(found)
        if before is not None:
            assert diff(before, found, reducer.touched) == diff(before, found)
        received = apply_delta(received, decode_delta(encode_delta(diff(received, found))))
        assert received == found
        check_indexes(received)
        before = found


def check_indexes(snapshot: MeshSnapshot) -> None:
    """What was carried over is what would be found."""
    fresh = MeshSnapshot(revision=0, workloads=snapshot.workloads, services=snapshot.services)
    assert snapshot.by_address == fresh.by_address
    assert snapshot.by_vip == fresh.by_vip
    for node in {"", *(w.node for w in snapshot.workloads.values())}:
        by_uid = {w.uid: w for w in fresh.local_workloads(node)}
        found = snapshot.local_workloads(node)
        assert {w.uid: w for w in found} == by_uid
        assert len(found) == len(by_uid)
    assert {k: {w.uid for w in v} for k, v in snapshot.waypoint_workloads.items()} == {
        k: {w.uid for w in v} for k, v in fresh.waypoint_workloads.items()
    }


def pod(name: str, address: str, **labels: str) -> SourceObject:
    status = {"podIP": address}
    return read(manifest("Pod", "v1", "a", name, {"labels": labels}, status=status))


def test_one_change_leaves_all_other_values_alone() -> None:
    reducer = Reducer()
    one, two = pod("one", "10.0.0.1"), pod("two", "10.0.0.2")
    first = reducer.reduce(ObjectSet(objects=(one, two)))
    second = reducer.reduce(ObjectSet(objects=(one, pod("two", "10.0.0.2", app="web"))))
    kept = WorkloadUid("pod/a/one")
    assert second.workloads[kept] is first.workloads[kept]
    assert second.services is first.services
    assert reducer.reduce(ObjectSet(objects=(one, pod("two", "10.0.0.2", app="web")))) is second
    assert second.revision == first.revision + 1


def test_an_address_stays_with_its_holder_until_it_lets_go() -> None:
    reducer = Reducer()
    holder, thief = pod("z-holder", "10.0.0.1"), pod("a-thief", "10.0.0.1")
    reducer.reduce(ObjectSet(objects=(holder,)))
    contested = reducer.reduce(ObjectSet(objects=(thief, holder)))
    assert list(contested.workloads) == ["pod/a/z-holder"]
    assert "address 10.0.0.1 belongs to Pod a/z-holder" in contested.problems[0].message
    freed = reducer.reduce(ObjectSet(objects=(thief,)))
    assert list(freed.workloads) == ["pod/a/a-thief"]
    assert freed.problems == ()


def test_an_endpoint_finds_the_pod_it_refers_to_whatever_its_address_says() -> None:
    service = manifest("Service", "v1", "a", "web", spec={"ports": [{"port": 80}]})
    item = {
        **manifest(
            "EndpointSlice",
            "discovery.k8s.io/v1",
            "a",
            "web-1",
            {"labels": {"kubernetes.io/service-name": "web"}},
        ),
        "endpoints": [{"addresses": ["10.0.0.9"], "targetRef": {"kind": "Pod", "name": "one"}}],
        "ports": [{"port": 80}],
    }
    reducer, fixed = Reducer(), (read(service), read(item))
    [before] = reducer.reduce(ObjectSet(objects=fixed)).services.values()
    assert [endpoint.workload for endpoint in before.endpoints] == [None]
    [after] = reducer.reduce(ObjectSet(objects=(*fixed, pod("one", "10.0.0.1")))).services.values()
    assert [endpoint.workload for endpoint in after.endpoints] == ["pod/a/one"]
