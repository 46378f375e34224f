"""The roots that everybody needs, in a ConfigMap of every namespace.

`root.pem` is the root of the CA's own server: what an agent or a waypoint checks before it shows
its token. `bundle.pem` holds the roots of workload certificates, for applications that speak TLS
with the mesh by themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus

from controller.kubernetes.client import KubeClient
from controller.waypoints.manifests import CA_ROOT, MANAGED_BY, MANAGER
from mesh.sources.kubernetes.errors import KubeError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """What is published."""

    server_pem: str
    bundle_pem: str


class BundlePublisher:
    """Applies the ConfigMap where it is not as it should be."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._published: dict[str, Roots] = {}

    def forget(self) -> None:
        """Publish everything once more."""
        self._published.clear()

    async def publish(self, namespaces: Collection[str], roots: Roots) -> bool:
        """Bring every namespace up to date. False if something has to be tried again."""
        is_done = True
        for gone in self._published.keys() - set(namespaces):
            del self._published[gone]
        for namespace in namespaces:
            if self._published.get(namespace) == roots:
                continue
            try:
                await self._client.apply(
                    {
                        "apiVersion": "v1",
                        "kind": "ConfigMap",
                        "metadata": {
                            "name": CA_ROOT,
                            "namespace": namespace,
                            "labels": {MANAGED_BY: MANAGER},
                        },
                        "data": {"root.pem": roots.server_pem, "bundle.pem": roots.bundle_pem},
                    }
                )
            except KubeError as error:
                # A namespace that is being deleted takes nothing new; it will be gone soon.
                if error.status not in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
                    is_done = False
                log.warning("trust bundle of namespace %s: %s", namespace, error)
            else:
                self._published[namespace] = roots
        return is_done
