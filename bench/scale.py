"""How much a cluster of many pods costs a node: `python -m bench.scale [PODS]`.

Against the API stand-in in a process of its own. Measured in the reader, which does what a node
does (`bench.scale_node`): time to the first set of objects, resident memory with it, and with
snapshot and the kernel's maps; time from a change of one pod at the server until the maps and a
worker have it, and what that costs in CPU time, which a busy machine does not stretch.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from multiprocessing.connection import Connection

from agent.node.memory import give_back_memory
from bench.scale_node import ScaleNode, open_node
from mesh.sources.kubernetes.access import ApiAccess
from mesh.sources.kubernetes.source import KubernetesSource, open_kubernetes
from mesh.sources.objects import ObjectSet
from tests.support.kube_api import KubeApiServer

PODS = 10_000
PODS_PER_NAMESPACE = 1000
PODS_PER_NODE = 100
PODS_PER_SERVICE = 50
CHANGES = 9
_FIELDS: Mapping[str, object] = {f"f:field{number}": {"f:type": {}} for number in range(40)}
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure and print."""
    pods = int(sys.argv[1]) if len(sys.argv) > 1 else PODS
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs, pods), daemon=True)
    server.start()
    try:
        asyncio.run(_measure(ours, pods))
    finally:
        server.terminate()
        server.join()


async def _measure(server: Connection, pods: int) -> None:
    port = await asyncio.to_thread(server.recv)
    access = ApiAccess(server=f"http://127.0.0.1:{port}")
    begin = time.perf_counter()
    async with (
        open_kubernetes(access, node="node-0") as source,
        aclosing(source.watch()) as changes,
    ):
        objects = await anext(changes)
        sync_s = time.perf_counter() - begin
        _check(objects, source, pods)
        gc.collect()
        print(
            f"{pods} pods: first set {sync_s:.1f} s, {_resident_mb():.0f} MB resident", flush=True
        )
        with open_node("node-0") as node:
            begin = time.perf_counter()
            node.take(objects)
            taken_s = time.perf_counter() - begin
            node.answer()
            gc.collect()
            give_back_memory()
            print(
                f"snapshot, kernel's maps and message to a worker {taken_s:.1f} s, "
                f"{_resident_mb():.0f} MB resident (at most {_peak_mb():.0f})",
                flush=True,
            )
            for what, first in (("of another node", PODS_PER_NODE), ("of this node", 0)):
                await _change_pods(server, node, changes, range(first, first + CHANGES), what)


async def _change_pods(
    server: Connection,
    node: ScaleNode,
    changes: AsyncIterator[ObjectSet],
    numbers: Iterable[int],
    what: str,
) -> None:
    seen_ms: list[float] = []
    taken_ms: list[float] = []
    done_ms: list[float] = []
    for number in numbers:
        server.send(number)
        sent_at = await asyncio.to_thread(server.recv)
        objects = await anext(changes)
        seen_ms.append((time.time() - sent_at) * 1e3)
        begin = time.process_time()
        node.take(objects)
        taken_ms.append((time.process_time() - begin) * 1e3)
        done_ms.append((node.answer() - sent_at) * 1e3)
    print(
        f"one change of a pod {what}: {statistics.median(done_ms):.0f} ms from the API server to "
        f"the kernel's maps and the worker (at most {max(done_ms):.0f}); of these "
        f"{statistics.median(seen_ms):.0f} ms to the set of objects, and "
        f"{statistics.median(taken_ms):.0f} ms of CPU from there to maps and message",
        flush=True,
    )


def _check(objects: ObjectSet, source: KubernetesSource, pods: int) -> None:
    found = sum(item.kind == "Pod" for item in objects.objects)
    if found != pods or not source.pod_uid("team-0", "app-0"):
        raise RuntimeError(f"{found} of {pods} pods; {objects.problems[:3]}")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES / 1e6


# -- the server's process -------------------------------------------------------------------------


def _serve(channel: Connection, pods: int) -> None:
    asyncio.run(_serve_until_closed(channel, pods))


async def _serve_until_closed(channel: Connection, pods: int) -> None:
    server = KubeApiServer()
    _fill(server, pods)
    async with server.running():
        channel.send(server.port)
        while True:
            try:
                number = await asyncio.to_thread(channel.recv)
            except EOFError:
                return
            changed = _pod(number, version=0, release=f"v{number + 2}")
            sent_at = time.time()
            await server.apply(changed)
            channel.send(sent_at)


def _fill(server: KubeApiServer, pods: int) -> None:
    store = server.store
    for number in range(-(-pods // PODS_PER_NAMESPACE)):
        name = f"team-{number}"
        labels = {"meshnode.io/dataplane": "enabled"}
        store.create("namespaces", {"metadata": {"name": name, "labels": labels}})
        store.create("serviceaccounts", {"metadata": {"name": "app", "namespace": name}})
    for number in range(-(-pods // PODS_PER_SERVICE)):
        for name, manifest in _service(number, pods).items():
            store.create(name, manifest)
    for number in range(pods):
        store.version += 1
        key = (f"team-{number // PODS_PER_NAMESPACE}", f"app-{number}")
        pod = _pod(number, version=store.version)
        store.load("pods", key, json.dumps(pod, separators=(",", ":")).encode())


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _service(number: int, pods: int) -> Mapping[str, Mapping[str, object]]:
    first = number * PODS_PER_SERVICE
    namespace, name = f"team-{first // PODS_PER_NAMESPACE}", f"svc-{number}"
    meta = {"name": name, "namespace": namespace}
    labels = {"kubernetes.io/service-name": name}
    address = f"172.16.{number >> 8 & 255}.{number & 255}"
    endpoints = [
        {
            "addresses": [_address(index)],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"node-{index // PODS_PER_NODE}",
            "targetRef": {"kind": "Pod", "name": f"app-{index}", "namespace": namespace},
        }
        for index in range(first, min(first + PODS_PER_SERVICE, pods))
    ]
    port = {"name": "http", "port": 8080, "protocol": "TCP"}
    return {
        "services": {
            "metadata": meta,
            "spec": {
                "clusterIP": address,
                "clusterIPs": [address],
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            },
        },
        "endpointslices.discovery.k8s.io": {
            "metadata": {**meta, "labels": labels},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [port],
        },
    }


def _pod(number: int, *, version: int, release: str = "v1") -> Mapping[str, object]:
    """A pod as large as clusters have them: about 4 KB of JSON, most of it of no use to us."""
    address = _address(number)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _pod_metadata(number, version, release),
        "spec": {
            "nodeName": f"node-{number // PODS_PER_NODE}",
            "serviceAccountName": "app",
            "containers": [
                {
                    "name": "app",
                    "image": "registry.example/app:1",
                    "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
                    "env": [{"name": f"SETTING_{n}", "value": "x" * 40} for n in range(12)],
                }
            ],
            "tolerations": [{"key": f"t-{n}", "operator": "Exists"} for n in range(4)],
        },
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
        },
    }


def _pod_metadata(number: int, version: int, release: str) -> Mapping[str, object]:
    service = number // PODS_PER_SERVICE
    manager = {"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": _FIELDS}}
    return {
        "name": f"app-{number}",
        "namespace": f"team-{number // PODS_PER_NAMESPACE}",
        "uid": f"00000000-0000-4000-8000-{number:012d}",
        "resourceVersion": str(version) if version else "",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {
            "app": f"svc-{service}",
            "app.kubernetes.io/version": release,
            "pod-template-hash": f"{service:08x}",
        },
        "annotations": {"kubernetes.io/psp": "restricted", "checksum/config": "c" * 64},
        "ownerReferences": [
            {"kind": "ReplicaSet", "name": f"svc-{service}-{service:08x}", "controller": True}
        ],
        "managedFields": [manager],
    }


if __name__ == "__main__":
    main()
