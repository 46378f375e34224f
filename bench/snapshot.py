"""How long a mesh of many workloads takes to become a snapshot: `python -m bench.snapshot`.

Pods are spread over nodes of 100 and namespaces of 1,000. Measured: all objects to the first
snapshot, then the same again with one pod changed, with the difference between both and its
encoding for the workers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec

from mesh.model.snapshot import MeshSnapshot
from mesh.sources.objects import (
    Condition,
    Metadata,
    NamespaceObject,
    ObjectSet,
    PodIP,
    PodObject,
    PodSpec,
    PodStatus,
    ServiceAccountObject,
    SourceObject,
)
from mesh.state.delta import diff, encode_delta
from mesh.state.reducer import Reducer

WORKLOADS = 100_000
PODS_PER_NODE = 100
PODS_PER_NAMESPACE = 1000
ACCOUNT = "app"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTimes:
    """Seconds for everything, seconds after one change, and the bytes that change sends."""

    first_s: float
    change_s: float
    delta_bytes: int


def measure(workloads: int = WORKLOADS) -> SnapshotTimes:
    """Reduce generated objects twice."""
    objects = ObjectSet(objects=tuple(_objects(workloads)))
    reducer = Reducer()
    begin = time.perf_counter()
    first = reducer.reduce(objects)
    first_s = time.perf_counter() - begin
    if len(first.workloads) != workloads or first.problems:
        raise RuntimeError(f"{len(first.workloads)} workloads, {first.problems[:3]}")
    changed = ObjectSet(objects=(*objects.objects[:-1], _relabelled(objects.objects[-1])))
    begin = time.perf_counter()
    second = reducer.reduce(changed)
    sent = encode_delta(diff(first, second, reducer.touched))
    change_s = time.perf_counter() - begin
    _check_change(first, second)
    return SnapshotTimes(first_s=first_s, change_s=change_s, delta_bytes=len(sent))


def _check_change(first: MeshSnapshot, second: MeshSnapshot) -> None:
    different = [uid for uid in second.workloads if second.workloads[uid] != first.workloads[uid]]
    if len(different) != 1:
        raise RuntimeError(f"one workload was changed, {len(different)} are different")


def _objects(workloads: int) -> Iterator[SourceObject]:
    for number in range(-(-workloads // PODS_PER_NAMESPACE)):
        name = f"team-{number}"
        meta = Metadata(name=name, labels={"meshnode.io/dataplane": "enabled"})
        yield _source("Namespace", "", name, NamespaceObject(metadata=meta))
        account = ServiceAccountObject(metadata=Metadata(name=ACCOUNT, namespace=name))
        yield _source("ServiceAccount", name, ACCOUNT, account)
    for number in range(workloads):
        yield _pod(number)


def _source(
    kind: str, namespace: str, name: str, body: NamespaceObject | ServiceAccountObject | PodObject
) -> SourceObject:
    return SourceObject(kind=kind, namespace=namespace, name=name, where="generated", body=body)


def _pod(number: int) -> SourceObject:
    namespace, name = f"team-{number // PODS_PER_NAMESPACE}", f"app-{number}"
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    pod = PodObject(
        metadata=Metadata(name=name, namespace=namespace, labels={"app": f"app-{number % 100}"}),
        spec=PodSpec(node_name=f"node-{number // PODS_PER_NODE}", service_account_name=ACCOUNT),
        status=PodStatus(
            phase="Running",
            pod_ip=address,
            pod_ips=(PodIP(ip=address),),
            conditions=(Condition(type="Ready", status="True"),),
        ),
    )
    return _source("Pod", namespace, name, pod)


def _relabelled(source: SourceObject) -> SourceObject:
    if not isinstance(source.body, PodObject):
        raise TypeError("the last object is a pod")
    labels = {**source.body.metadata.labels, "version": "v2"}
    metadata = msgspec.structs.replace(source.body.metadata, labels=labels)
    return replace(source, body=msgspec.structs.replace(source.body, metadata=metadata))


if __name__ == "__main__":
    found = measure()
    print(
        f"{WORKLOADS} workloads: first snapshot {found.first_s:.2f} s, after one change "
        f"{found.change_s * 1e3:.0f} ms, {found.delta_bytes} bytes to send"
    )
