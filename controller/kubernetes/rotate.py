"""What a person does to the CA of a cluster, as functions for the CLI."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from controller.admin import RootSummary, summaries
from controller.kubernetes.ca_secret import CaSecret
from controller.kubernetes.client import KubeClient
from mesh.identity.bootstrap import GivenCa, signing_root
from mesh.identity.profiles import RandomBytes
from mesh.identity.roots import CaState, activate_next, publish_root
from mesh.sources.kubernetes.config import load_configuration
from mesh.sources.kubernetes.transport import KubeApi


async def rotate_cluster_root(
    kubeconfig: Path | None,
    namespace: str,
    *,
    given: GivenCa | None = None,
    now: float,
    random_bytes: RandomBytes,
) -> list[RootSummary]:
    """Publish a new root; the leading controller activates it and retires the old one when due."""

    def publish(state: CaState) -> CaState:
        root = signing_root(given, state.trust_domains[0], now, random_bytes)
        return publish_root(state, root, now)

    return await _change(kubeconfig, namespace, publish)


async def activate_cluster_root(
    kubeconfig: Path | None, namespace: str, *, now: float
) -> list[RootSummary]:
    """Let a published root sign at once: for a compromised key."""
    return await _change(kubeconfig, namespace, partial(activate_next, now=now))


async def list_cluster_roots(kubeconfig: Path | None, namespace: str) -> list[RootSummary]:
    """Every root and its stage."""
    return await _change(kubeconfig, namespace, lambda state: state)


async def _change(
    kubeconfig: Path | None, namespace: str, change: Callable[[CaState], CaState]
) -> list[RootSummary]:
    configuration = await load_configuration(kubeconfig)
    # The keys pass through a directory of this process alone, and are gone with it.
    with tempfile.TemporaryDirectory(prefix="meshnode-ca-") as directory:
        async with KubeApi(configuration) as api:
            secret = CaSecret(KubeClient(api), namespace, Path(directory) / "ca")
            return summaries(await secret.update(change))
