"""From bytes to objects: both ways agree, and nothing broken takes the rest down."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec
import pytest

from mesh.sources.decode import KINDS
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.items import Entry, ItemReader, read_head
from mesh.sources.kubernetes.resources import CONTROLLER_RESOURCES, RESOURCES, Resource
from mesh.sources.kubernetes.share import NETNS_ANNOTATION, Sharer
from mesh.sources.objects import EndpointSliceObject, PodObject
from mesh.state import labels

POD: Mapping[str, object] = {
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "uid": "u-1",
        "resourceVersion": "7",
        "labels": {"app": "web"},
        "annotations": {"meshnode.io/netns": "/proc/1/ns/net", "other": "x"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1", "controller": True}],
        "managedFields": [{"manager": "kubelet"}],
    },
    "spec": {
        "nodeName": "one",
        "containers": [
            {"name": "a", "ports": [{"containerPort": 80, "name": "http"}]},
            {"name": "b"},
        ],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "True"}],
    },
}


def resource(kind: str) -> Resource:
    return next(found for found in RESOURCES if found.kind == kind)


def read(kind: str, manifest: Mapping[str, object], before: Entry | None = None) -> Entry:
    found = resource(kind)
    reader = ItemReader(found, found.api_versions[0], node="one", sharer=Sharer())
    raw = msgspec.Raw(json.dumps(manifest).encode())
    return reader.read(raw, read_head(raw), before)


def body_of(entry: Entry) -> object:
    assert entry.problem is None
    assert entry.item is not None
    return entry.item.body


def test_a_pod_is_cut_down_to_what_is_read() -> None:
    pod = body_of(read("Pod", POD))
    assert isinstance(pod, PodObject)
    assert dict(pod.metadata.annotations) == {}
    assert [c.type for c in pod.status.conditions] == ["Ready"]
    assert [ip.ip for ip in pod.status.pod_ips] == ["10.0.0.1", "fd00::1"]
    assert [[port.name for port in c.ports] for c in pod.spec.containers] == [["http"]]


def test_nulls_are_absent_on_either_way() -> None:
    quick = read("Pod", POD)
    careful = read(
        "Pod",
        {
            **POD,
            "metadata": {
                **_metadata(POD),
                "generateName": None,
                "finalizers": None,
                "labels": {"app": "web"},
                "annotations": None,
            },
        },
    )
    assert body_of(quick) == body_of(careful)
    empty = read(
        "EndpointSlice",
        {
            "metadata": {"name": "s", "namespace": "shop"},
            "addressType": "IPv4",
            "endpoints": None,
            "ports": None,
        },
    )
    found = body_of(empty)
    assert isinstance(found, EndpointSliceObject)
    assert found.endpoints == ()


def _metadata(manifest: Mapping[str, object]) -> Mapping[str, object]:
    found = manifest["metadata"]
    assert isinstance(found, dict)
    return found


def test_a_wrong_field_is_named_and_the_last_good_state_kept() -> None:
    good = read("Pod", POD)
    bad = {**POD, "status": {"podIP": "10.0.0.1", "phase": 7}}
    entry = read("Pod", bad, good)
    assert entry.item is good.item
    assert entry.uid == "u-1"
    assert entry.problem is not None
    assert entry.problem.subject == "Pod shop/web"
    assert entry.problem.message.startswith("status.phase: ")
    alone = read("Pod", bad)
    assert alone.item is None


def test_an_object_that_did_not_change_stays_the_same() -> None:
    first = read("Pod", POD)
    assert read("Pod", POD, first).item is first.item


def test_our_kinds_are_read_without_kind_and_version_in_the_item() -> None:
    entry = read(
        "PeerAuthentication",
        {"metadata": {"name": "p", "namespace": "shop"}, "spec": {"mtls": {"mode": "STRICT"}}},
    )
    assert entry.problem is None
    assert entry.item is not None
    assert entry.item.where == "PeerAuthentication shop/p"


@pytest.mark.parametrize("raw", [b"[]", b"{", b'{"metadata":{}}', b"\xff"])
def test_what_is_no_object_is_an_error_of_the_server(raw: bytes) -> None:
    with pytest.raises(KubeError):
        read_head(msgspec.Raw(raw))


def test_equal_parts_are_stored_once() -> None:
    sharer = Sharer()
    found = resource("Pod")
    reader = ItemReader(found, "v1", node="", sharer=sharer)

    def pod(name: str) -> PodObject:
        raw = msgspec.Raw(
            json.dumps({**POD, "metadata": {**_metadata(POD), "name": name}}).encode()
        )
        body = body_of(reader.read(raw, read_head(raw), None))
        assert isinstance(body, PodObject)
        return body

    one, two = pod("one"), pod("two")
    assert one.metadata.labels is two.metadata.labels
    assert one.metadata.owner_references is two.metadata.owner_references
    assert one.spec is two.spec
    assert one.status.conditions is two.status.conditions


def test_the_annotation_that_is_dropped_is_the_one_that_the_reducer_reads() -> None:
    assert NETNS_ANNOTATION == labels.NETNS_ANNOTATION


def test_every_kind_that_is_watched_can_be_read() -> None:
    for found in RESOURCES:
        for version in found.api_versions:
            ItemReader(found, version, node="", sharer=Sharer())


def test_every_kind_that_can_be_read_is_watched_in_every_version() -> None:
    watched = {
        (found.kind, version) for found in CONTROLLER_RESOURCES for version in found.api_versions
    }
    known = {(name, version) for name, kind in KINDS.items() for version in kind.versions}
    assert watched == known
