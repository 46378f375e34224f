"""What every source does: the same objects become the same mesh, wherever they come from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.model.snapshot import MeshSnapshot
from mesh.sources.objects import ObjectSet
from mesh.state.reducer import reduce
from tests.contract.sources.worlds import Opener, Watching, World, file_world, kube_world
from tests.lab.objects import Json, KubeObject, kube_object

CREATED: dict[str, Json] = {"creationTimestamp": "2026-02-03T04:05:06Z"}
NAMESPACE = kube_object("v1", "Namespace", "shop", labels={"meshnode.io/dataplane": "enabled"})
ACCOUNT = kube_object("v1", "ServiceAccount", "web", namespace="shop")
CONFIG = kube_object(
    "meshnode.io/v1alpha1", "MeshConfig", "mesh", spec={"trustDomain": "shop.test"}
)


_CONTAINER: Json = {
    "name": "app",
    "image": "app:1",
    "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
}
_OWNER: Json = {
    "apiVersion": "apps/v1",
    "kind": "ReplicaSet",
    "name": "web-6f7d",
    "uid": "u",
    "controller": True,
}


def pod(name: str, address: str, **changes: Json) -> KubeObject:
    """A running pod as a cluster shows it, with much that nobody reads."""
    manifest: dict[str, Json] = dict(
        kube_object(
            "v1",
            "Pod",
            name,
            namespace="shop",
            labels={"app": "web", "pod-template-hash": "6f7d"},
            annotations={"meshnode.io/exclude-outbound-ports": "9000", "team": "checkout"},
            spec={
                "nodeName": "one",
                "serviceAccountName": "web",
                "containers": [_CONTAINER],
                "tolerations": [{"operator": "Exists"}],
            },
            status={
                "phase": "Running",
                "podIP": address,
                "podIPs": [{"ip": address}],
                "conditions": [
                    {"type": "Ready", "status": "True", "lastProbeTime": None},
                    {"type": "Initialized", "status": "True"},
                ],
            },
        )
    )
    meta = manifest["metadata"]
    assert isinstance(meta, dict)
    return {**manifest, "metadata": {**meta, "ownerReferences": [_OWNER]}, **changes}


SERVICE = kube_object(
    "v1",
    "Service",
    "web",
    namespace="shop",
    spec={
        "clusterIP": "10.96.0.7",
        "clusterIPs": ["10.96.0.7"],
        "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    },
)
SLICE = kube_object(
    "discovery.k8s.io/v1",
    "EndpointSlice",
    "web-x1",
    namespace="shop",
    labels={"kubernetes.io/service-name": "web"},
    addressType="IPv4",
    endpoints=[
        {
            "addresses": ["10.0.0.1"],
            "conditions": {"ready": True, "serving": None},
            "targetRef": {"kind": "Pod", "name": "web-1", "namespace": "shop", "uid": "u"},
        }
    ],
    ports=[{"name": "http", "port": 8080, "protocol": "TCP"}],
)
EMPTY_SLICE = kube_object(
    "discovery.k8s.io/v1",
    "EndpointSlice",
    "web-x2",
    namespace="shop",
    labels={"kubernetes.io/service-name": "web"},
    addressType="IPv4",
    endpoints=None,
    ports=None,
)


def policy(spec: Json) -> KubeObject:
    """An authorization policy."""
    made = kube_object(
        "meshnode.io/v1alpha1", "AuthorizationPolicy", "only-web", namespace="shop", spec=spec
    )
    meta = made["metadata"]
    assert isinstance(meta, dict)
    return {**made, "metadata": {**meta, **CREATED}}


ALLOW = policy({"rules": [{"from": [{"source": {"serviceAccounts": ["web"]}}]}]})
PEERS = kube_object(
    "meshnode.io/v1alpha1",
    "PeerAuthentication",
    "strict",
    namespace="shop",
    spec={"mtls": {"mode": "STRICT"}},
)
STRICT = {**PEERS, "metadata": {"name": "strict", "namespace": "shop", **CREATED}}
EVERYTHING = (
    NAMESPACE,
    ACCOUNT,
    CONFIG,
    pod("web-1", "10.0.0.1"),
    pod("web-2", "10.0.0.2"),
    SERVICE,
    SLICE,
    EMPTY_SLICE,
    ALLOW,
    STRICT,
)


@pytest.fixture(params=[file_world, kube_world], ids=["file", "kubernetes"])
def opener(request: pytest.FixtureRequest) -> Opener:
    """Every kind of source."""
    found: Opener = request.param
    return found


def play(
    opener: Opener,
    path: Path,
    script: Callable[[World, Watching], Awaitable[None]],
    *first: KubeObject,
) -> None:
    """Run a script against a source that starts with some objects."""

    async def run() -> None:
        async with opener(path) as world:
            await world.apply(*first)
            async with world.watch() as watching:
                await script(world, watching)

    asyncio.run(run())


def names(found: ObjectSet) -> list[str]:
    return sorted(item.name for item in found.objects)


def mesh_of(found: ObjectSet) -> MeshSnapshot:
    """The mesh without the words for where things were found."""
    return replace(reduce(found, None), problems=())


def test_the_same_objects_are_the_same_mesh(tmp_path: Path) -> None:
    meshes: list[MeshSnapshot] = []

    async def read(_: World, watching: Watching) -> None:
        found = await watching.next()
        assert found.problems == ()
        assert reduce(found, None).problems == ()
        meshes.append(mesh_of(found))

    play(file_world, tmp_path, read, *EVERYTHING)
    play(kube_world, tmp_path, read, *EVERYTHING)
    assert meshes[0] == meshes[1]
    assert len(meshes[0].workloads) == 2
    assert meshes[0].settings.trust_domain == "shop.test"
    assert len(meshes[0].policies) == len(meshes[0].peer_authentications) == 1
    [service] = meshes[0].services.values()
    assert [str(endpoint.address) for endpoint in service.endpoints] == ["10.0.0.1"]


def test_changes_and_deletions_arrive(opener: Opener, tmp_path: Path) -> None:
    async def change(world: World, watching: Watching) -> None:
        assert names(await watching.next()) == ["shop", "web-1"]
        await world.apply(pod("web-2", "10.0.0.2"))
        found = await watching.until(lambda objects: len(objects.objects) == 3)
        await world.apply(pod("web-1", "10.0.0.9"))
        moved = await watching.until(
            lambda objects: (
                "pod/shop/web-1" in mesh_of(objects).workloads
                and str(next(iter(mesh_of(objects).workloads.values())).addresses[0]) != "10.0.0.1"
            )
        )
        kept = {item.name: item for item in found.objects}
        assert next(item for item in moved.objects if item.name == "web-2") is kept["web-2"]
        await world.delete(pod("web-1", "10.0.0.9"))
        await watching.until(lambda objects: names(objects) == ["shop", "web-2"])

    play(opener, tmp_path, change, NAMESPACE, pod("web-1", "10.0.0.1"))


def test_a_broken_object_keeps_its_last_good_state(opener: Opener, tmp_path: Path) -> None:
    async def break_it(world: World, watching: Watching) -> None:
        before = mesh_of(await watching.next())
        await world.apply(policy({"rules": [{"form": []}]}))
        found = await watching.until(lambda objects: bool(objects.problems))
        [problem] = found.problems
        assert problem.subject == "AuthorizationPolicy shop/only-web"
        assert "spec.rules[0].form: unknown field" in problem.message
        assert problem.message.endswith("(its last good version stays in force)")
        assert mesh_of(found).policies == before.policies
        await world.apply(ALLOW)
        await watching.until(lambda objects: not objects.problems)

    play(opener, tmp_path, break_it, NAMESPACE, ALLOW)


def test_an_object_that_never_was_good_takes_nothing_down(opener: Opener, tmp_path: Path) -> None:
    async def read(_: World, watching: Watching) -> None:
        found = await watching.next()
        assert names(found) == ["shop", "web-1"]
        assert ["podIP" in problem.message for problem in found.problems] == [True]

    bad = pod("web-2", "", status={"phase": "Running", "podIP": "10.0.0.300"})
    play(opener, tmp_path, read, NAMESPACE, pod("web-1", "10.0.0.1"), bad)
