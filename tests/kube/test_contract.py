"""What we rely on in an API server: one suite for the stand-in and for a real one.

The real one takes part where KUBEBUILDER_ASSETS names a directory with kube-apiserver and etcd.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager

import msgspec
import pytest

from controller.kubernetes.client import APPLY, KubeClient, Manifest, metadata_of, path_of
from controller.kubernetes.election import Clocks, LeaderElection
from controller.lease import LeaseTiming
from mesh.sources.kubernetes.access import ApiAccess
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.resources import Resource, collection_path
from mesh.sources.kubernetes.source import open_kubernetes
from mesh.sources.kubernetes.transport import MERGE_PATCH, KubeApi
from mesh.sources.kubernetes.watcher import WatchSettings
from tests.support.kube_api import KubeApiServer
from tests.support.kube_real import RealServer, assets, real_server

TIMEOUT_S = 150.0
NEEDS_ASSETS = pytest.mark.skipif(
    assets() is None, reason="needs kube-apiserver and etcd in KUBEBUILDER_ASSETS"
)


@pytest.fixture(
    scope="module",
    params=["stand-in", pytest.param("real", marks=[NEEDS_ASSETS, pytest.mark.slow])],
)
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer | None]:
    """The real server that all tests share, or None for a stand-in each."""
    binaries = assets()
    if request.param == "stand-in" or binaries is None:
        yield None
        return
    with real_server(binaries, tmp_path_factory.mktemp("real")) as made:
        yield made


class Api:
    """A server with a namespace of our own."""

    def __init__(self, access: ApiAccess, api: KubeApi, namespace: str) -> None:
        self.access = access
        self.api = api
        self.client = KubeClient(api)
        self.namespace = namespace

    def manifest(self, kind: str, version: str, name: str, **body: object) -> Manifest:
        metadata: Manifest = {"name": name, "namespace": self.namespace}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **body}

    def config(self, name: str = "c", **data: str) -> Manifest:
        return self.manifest("ConfigMap", "v1", name, data=data)

    async def apply_as(self, manager: str, manifest: Manifest, *, force: bool = False) -> Manifest:
        body = await self.api.request(
            "PATCH",
            path_of(manifest),
            query={"fieldManager": manager, **({"force": "true"} if force else {})},
            body=msgspec.json.encode(manifest),
            content_type=APPLY,
        )
        return msgspec.json.decode(body, type=dict[str, object])


@asynccontextmanager
async def server(kind: RealServer | None) -> AsyncIterator[ApiAccess]:
    if kind is not None:
        yield kind.access()
        return
    made = KubeApiServer()
    async with made.running():
        yield made.access


def play(kind: RealServer | None, script: Callable[[Api], Awaitable[None]]) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(TIMEOUT_S),
            server(kind) as access,
            KubeApi(access) as api,
        ):
            name = f"contract-{uuid.uuid4().hex[:8]}"
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            await api.request("POST", "/api/v1/namespaces", body=msgspec.json.encode(body))
            await script(Api(access, api, name))

    asyncio.run(run())


async def refusal(work: Awaitable[object]) -> KubeError:
    with pytest.raises(KubeError) as found:
        await work
    return found.value


def test_objects_are_locked_by_their_version(kind: RealServer | None) -> None:
    async def script(on: Api) -> None:
        made = await on.client.create(on.config(a="1"))
        assert (await refusal(on.client.create(on.config(a="2")))).is_conflict
        path = path_of(made)
        await on.client.replace(path, {**made, "data": {"a": "2"}})
        assert (await refusal(on.client.replace(path, {**made, "data": {"a": "3"}}))).is_conflict
        found = await on.client.get(path)
        assert found is not None
        assert found["data"] == {"a": "2"}
        await on.client.delete(path)
        await on.client.delete(path)
        assert await on.client.get(path) is None

    play(kind, script)


def test_apply_keeps_what_others_set_and_takes_back_its_own(kind: RealServer | None) -> None:
    async def script(on: Api) -> None:
        await on.apply_as("one", on.config(a="1", b="1"))
        await on.apply_as("two", on.config(c="2"))
        found = await on.apply_as("one", on.config(a="1"))
        assert found["data"] == {"a": "1", "c": "2"}
        conflict = await refusal(on.apply_as("two", on.config(a="2", c="2")))
        assert conflict.is_conflict
        forced = await on.apply_as("two", on.config(a="2", c="2"), force=True)
        assert forced["data"] == {"a": "2", "c": "2"}
        # "one" owns nothing any more: to apply less takes nothing away.
        found = await on.apply_as("one", on.config())
        assert found["data"] == {"a": "2", "c": "2"}

    play(kind, script)


def test_applying_the_same_again_is_no_change(kind: RealServer | None) -> None:
    async def script(on: Api) -> None:
        first = await on.client.apply(on.config(a="1"))
        again = await on.client.apply(on.config(a="1"))
        version = metadata_of(first)["resourceVersion"]
        assert metadata_of(again)["resourceVersion"] == version

    play(kind, script)


def test_a_merge_patch_removes_what_is_null(kind: RealServer | None) -> None:
    async def script(on: Api) -> None:
        made = await on.client.create(on.config(a="1", b="1"))
        body = msgspec.json.encode({"data": {"a": None, "c": "3"}})
        answer = await on.api.request("PATCH", path_of(made), body=body, content_type=MERGE_PATCH)
        found = msgspec.json.decode(answer, type=dict[str, object])
        assert found["data"] == {"b": "1", "c": "3"}

    play(kind, script)


def test_a_pods_annotations_go_through_the_door_of_its_status(kind: RealServer | None) -> None:
    """And nothing of its spec does: what the agents' permission rests on."""

    async def script(on: Api) -> None:
        spec = {"containers": [{"name": "app", "image": "app:1"}]}
        made = await on.client.create(on.manifest("Pod", "v1", "p", spec=spec))
        body = {
            "metadata": {"annotations": {"meshnode.io/enrolment": "active"}},
            "spec": {"containers": [{"name": "app", "image": "evil:1"}]},
        }
        answer = await on.api.request(
            "PATCH",
            f"{path_of(made)}/status",
            body=msgspec.json.encode(body),
            content_type=MERGE_PATCH,
        )
        found = msgspec.json.decode(answer, type=dict[str, object])
        annotations = metadata_of(found)["annotations"]
        assert isinstance(annotations, dict)
        assert annotations["meshnode.io/enrolment"] == "active"
        kept = found["spec"]
        assert isinstance(kept, dict)
        assert kept["containers"][0]["image"] == "app:1"

    play(kind, script)


def test_generation_counts_changes_of_the_spec_only(kind: RealServer | None) -> None:
    def generation(found: Manifest) -> object:
        return metadata_of(found)["generation"]

    async def script(on: Api) -> None:
        labels = {"app": "x"}
        template = {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "app", "image": "app:1"}]},
        }
        body = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
        made = await on.client.create(on.manifest("Deployment", "apps/v1", "d", spec=body))
        assert generation(made) == 1
        status = {**made, "status": {"observedGeneration": 1}, "spec": {**body, "replicas": 9}}
        found = await on.client.replace(f"{path_of(made)}/status", status)
        assert generation(found) == 1
        spec = found["spec"]
        assert isinstance(spec, dict)
        assert spec["replicas"] == 1
        found = await on.client.replace(path_of(made), {**found, "spec": {**spec, "replicas": 2}})
        assert generation(found) == 2

    play(kind, script)


def test_lists_can_be_limited_by_labels(kind: RealServer | None) -> None:
    async def script(on: Api) -> None:
        for name, labels in (("one", {"a": "1", "b": "2"}), ("two", {"a": "1"})):
            made = on.config(name)
            metadata_of(made)["labels"] = labels
            await on.client.create(made)
        path = collection_path("v1", "configmaps", on.namespace)
        found = await on.client.list(path, "a=1,b=2")
        assert [metadata_of(item)["name"] for item in found] == ["one"]

    play(kind, script)


def test_a_source_follows_what_happens(kind: RealServer | None) -> None:
    resources = (Resource(kind="Service", plural="services"),)
    settings = WatchSettings(first_backoff_s=0.05, page=2)

    async def script(on: Api) -> None:
        def service(name: str) -> Manifest:
            return on.manifest("Service", "v1", name, spec={"ports": [{"port": 80}]})

        for number in range(5):
            await on.client.create(service(f"s{number}"))
        async with (
            open_kubernetes(on.access, resources=resources, settings=settings) as source,
            aclosing(source.watch()) as changes,
        ):
            wanted = {f"s{number}" for number in range(5)}
            found = await anext(changes)
            await on.client.create(service("new"))
            await on.client.delete(path_of(service("s0")))
            wanted = (wanted | {"new"}) - {"s0"}
            while {o.name for o in found.objects if o.namespace == on.namespace} != wanted:
                found = await anext(changes)

    play(kind, script)


def test_a_lease_can_be_held_and_let_go(kind: RealServer | None) -> None:
    async def script(on: Api) -> None:
        loop = asyncio.get_running_loop()
        made = LeaderElection(
            on.api,
            namespace=on.namespace,
            identity="one",
            clocks=Clocks(now=loop.time, wall=lambda: 1_800_000_000.0, random=lambda: 0.0),
            work=asyncio.Event().wait,  # type: ignore[arg-type]  # what it says is of no interest
            timing=LeaseTiming(duration_s=5.0, renew_within_s=3.0, retry_s=0.1),
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(made.run())
            await made.leads.wait()
            await asyncio.sleep(0.5)
            assert made.leads.is_set()
            running.cancel()
        path = collection_path("coordination.k8s.io/v1", "leases", on.namespace)
        found = await on.client.get(f"{path}/meshnode-controller")
        assert found is not None
        spec = found["spec"]
        assert isinstance(spec, dict)
        assert spec.get("holderIdentity", "") == ""

    play(kind, script)
