"""Objects of the API server as plain data: read, apply, replace, delete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.resources import collection_path
from mesh.sources.kubernetes.transport import KubeApi

Manifest: TypeAlias = "dict[str, object]"

FIELD_MANAGER = "meshnode-controller"
APPLY = "application/apply-patch+yaml"
PLURALS = {
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "ServiceAccount": "serviceaccounts",
    "Service": "services",
    "Pod": "pods",
    "Deployment": "deployments",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "ClusterRoleBinding": "clusterrolebindings",
    "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
}


def object_path(api_version: str, plural: str, namespace: str, name: str) -> str:
    """Path of one object."""
    return f"{collection_path(api_version, plural, namespace)}/{name}"


def path_of(manifest: Manifest) -> str:
    """Path of the object that a manifest describes."""
    meta = metadata_of(manifest)
    plural = PLURALS[str(manifest["kind"])]
    namespace, name = str(meta.get("namespace", "")), str(meta["name"])
    return object_path(str(manifest["apiVersion"]), plural, namespace, name)


def metadata_of(manifest: Manifest) -> Manifest:
    """metadata of an object."""
    found = manifest.get("metadata")
    if not isinstance(found, dict):
        raise KubeError("an object of the API server has no metadata")
    return found


class KubeClient:
    """A few verbs over `KubeApi`. Everything raises `KubeError`.

    Args:
        may_write: asked at the instant of each write. A leader that was held up for longer than
            its lease, in the middle of its work, must not write beside its successor.
    """

    def __init__(self, api: KubeApi, *, may_write: Callable[[], bool] = lambda: True) -> None:
        self._api = api
        self._may_write = may_write

    async def get(self, path: str) -> Manifest | None:
        """An object, or None if it is not there."""
        try:
            return _decode(await self._api.request("GET", path))
        except KubeError as error:
            if error.is_missing:
                return None
            raise

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply; what others set and we do not stays."""
        self._check_fence()
        body = await self._api.request(
            "PATCH",
            path_of(manifest),
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=msgspec.json.encode(manifest),
            content_type=APPLY,
        )
        return _decode(body)

    async def create(self, manifest: Manifest) -> Manifest:
        """Create; `KubeError.is_conflict` if somebody was first."""
        self._check_fence()
        collection = path_of(manifest).rpartition("/")[0]
        return _decode(
            await self._api.request("POST", collection, body=msgspec.json.encode(manifest))
        )

    async def replace(self, path: str, manifest: Manifest) -> Manifest:
        """Replace what was read; `KubeError.is_conflict` if it changed meanwhile."""
        self._check_fence()
        return _decode(await self._api.request("PUT", path, body=msgspec.json.encode(manifest)))

    def _check_fence(self) -> None:
        if not self._may_write():
            raise KubeError("this replica leads no more: it writes nothing")

    async def list(self, path: str, label_selector: str) -> Sequence[Manifest]:
        """The objects of a collection that a selector takes. Not for large ones: no pages."""
        body = await self._api.request("GET", path, query={"labelSelector": label_selector})
        items = _decode(body).get("items")
        return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else ()

    async def delete(self, path: str) -> None:
        """Delete, if it is there."""
        self._check_fence()
        try:
            await self._api.request("DELETE", path)
        except KubeError as error:
            if not error.is_missing:
                raise


def _decode(body: bytes) -> Manifest:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KubeError(f"an object of the API server cannot be read: {error}") from error
