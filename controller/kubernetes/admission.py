"""The admission webhook in a cluster: its certificate, and how the API server finds it."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from controller.kubernetes.client import Manifest
from controller.waypoints.manifests import MANAGED_BY, MANAGER
from controller.webhook import PATH, admission_endpoint
from mesh.errors import ConfigError, IdentityError
from mesh.identity.profiles import RandomBytes
from mesh.identity.server_tls import (
    RENEW_AFTER_S,
    issue_server_pem,
    load_server_pem,
    server_context,
)
from mesh.identity.state_dir import StateDir
from mesh.identity.state_files import replace_private
from mesh.sources.objects import ObjectSet

log = logging.getLogger(__name__)

CHECK_S = 3600.0
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

    namespace: str
    state_dir: StateDir
    port: int

    @property
    def host(self) -> str:
        """The name that the API server asks for."""
        return f"{SERVICE}.{self.namespace}.svc"


class Admission:
    """The webhook's certificate and configuration, kept fresh by `run`.

    Args:
        clock: seconds since the epoch.

    Raises `ConfigError` or `IdentityError` for a root that cannot be used.
    """

    def __init__(
        self,
        setup: AdmissionSetup,
        *,
        clock: Callable[[], float],
        random_bytes: RandomBytes,
        check_s: float = CHECK_S,
    ) -> None:
        self._setup = setup
        self._clock = clock
        self._random_bytes = random_bytes
        self._check_s = check_s
        self._root_pem = b""
        self._issued_at = 0.0
        self.tls = server_context()
        """Whoever connects next sees the certificate that was loaded last."""
        self.renew_if_due()

    def configuration(self) -> Manifest:
        """What leads the API server to us, and makes it trust our certificate."""
        return configuration(self._setup.namespace, self._root_pem)

    def renew_if_due(self) -> bool:
        """Take a new certificate after a third of its life, and when the root is another one."""
        root, now = self._setup.state_dir.load_server_root(), self._clock()
        due = not self._issued_at <= now < self._issued_at + RENEW_AFTER_S
        if not due and root.roots_pem == self._root_pem:
            return False
        pem = issue_server_pem(
            root, now=now, random_bytes=self._random_bytes, names=(self._setup.host,)
        )
        path = self._setup.state_dir.path / "webhook.pem"
        replace_private(path, pem)
        load_server_pem(self.tls, path)
        self._issued_at, self._root_pem = now, root.roots_pem
        return True

    async def run(self) -> None:
        """Renew until cancelled; by the wall clock, which goes on while a machine sleeps."""
        while True:
            await asyncio.sleep(self._check_s)
            try:
                if self.renew_if_due():
                    log.info("the webhook has a new certificate")
            except (ConfigError, IdentityError, OSError) as error:
                # The present one lasts three times as long as it is used.
                log.error("the webhook's certificate was not renewed: %s", error)


async def serve_admission(
    setup: AdmissionSetup, objects: Callable[[], ObjectSet], stack: AsyncExitStack
) -> Admission:
    """Serve until the stack unwinds; the caller runs what keeps the certificate fresh."""
    admission = Admission(setup, clock=time.time, random_bytes=os.urandom)
    await stack.enter_async_context(admission_endpoint("", setup.port, admission.tls, objects))
    return admission


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
