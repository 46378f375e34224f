"""The admission webhook in a cluster: its certificate, and how the API server finds it."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from controller.kubernetes.client import KubeClient, Manifest
from controller.waypoints.manifests import MANAGED_BY, MANAGER
from controller.webhook import PATH, admission_endpoint
from mesh.identity.server_tls import issue_server_pem, load_server_pem, server_context
from mesh.identity.state_dir import StateDir
from mesh.identity.state_files import replace_private
from mesh.sources.objects import ObjectSet

SERVICE = "meshnode-controller"
NAME = "meshnode"
TIMEOUT_S = 5
_RULES = (
    ("meshnode.io", ("v1alpha1",)),
    ("gateway.networking.k8s.io", ("v1", "v1alpha2", "v1alpha3")),
)
_RESOURCES = {
    "meshnode.io": ["*"],
    "gateway.networking.k8s.io": ["httproutes", "grpcroutes", "tlsroutes", "tcproutes"],
}


@dataclass(frozen=True, slots=True)
class AdmissionSetup:
    """Where the webhook is, and whose root its certificate is under: that of the CA's server."""

    client: KubeClient
    namespace: str
    state_dir: StateDir
    port: int

    @property
    def host(self) -> str:
        """The name that the API server asks for."""
        return f"{SERVICE}.{self.namespace}.svc"


async def serve_admission(
    setup: AdmissionSetup, objects: Callable[[], ObjectSet], stack: AsyncExitStack
) -> Manifest:
    """Serve until the stack unwinds; returns the configuration that leads to us.

    The certificate lasts 90 days; a replica is replaced by every upgrade before that, or renews
    it by starting anew.
    """
    root = setup.state_dir.load_server_root()
    pem = issue_server_pem(root, now=time.time(), random_bytes=os.urandom, names=(setup.host,))
    path = setup.state_dir.path / "webhook.pem"
    replace_private(path, pem)
    tls = server_context()
    load_server_pem(tls, path)
    await stack.enter_async_context(admission_endpoint("", setup.port, tls, objects))
    return configuration(setup.namespace, root.roots_pem)


def configuration(namespace: str, root_pem: bytes) -> Manifest:
    """The ValidatingWebhookConfiguration."""
    rules = [
        {
            "apiGroups": [group],
            "apiVersions": list(versions),
            "operations": ["CREATE", "UPDATE"],
            "resources": _RESOURCES[group],
        }
        for group, versions in _RULES
    ]
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": NAME, "labels": {MANAGED_BY: MANAGER}},
        "webhooks": [
            {
                "name": "analyze.meshnode.io",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                # A webhook that is away must not keep people from mending the mesh.
                "failurePolicy": "Ignore",
                "timeoutSeconds": TIMEOUT_S,
                "clientConfig": {
                    "service": {"namespace": namespace, "name": SERVICE, "path": PATH, "port": 443},
                    "caBundle": base64.b64encode(root_pem).decode(),
                },
                "rules": rules,
            }
        ],
    }
