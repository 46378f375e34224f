"""The cluster as the controller needs it: who runs where, and who is asking."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.kubernetes.token_review import Account, TokenReviewAuthenticator
from mesh.sources.kubernetes.config import load_configuration
from mesh.sources.kubernetes.source import open_kubernetes
from mesh.sources.kubernetes.transport import KubeApi
from mesh.sources.objects import ObjectSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """An open connection to the API server."""

    changes: AsyncGenerator[ObjectSet, None]
    authenticator: TokenReviewAuthenticator


@asynccontextmanager
async def open_cluster(kubeconfig: Path | None, agents: Account) -> AsyncIterator[Cluster]:
    """Connect and keep watching until the block is left.

    Args:
        kubeconfig: None = the service account of the pod we run in.
        agents: the account whose tokens speak for their nodes.

    Raises `ConfigError` if the API server cannot be found from here.
    """
    configuration = await load_configuration(kubeconfig)
    async with KubeApi(configuration) as api, open_kubernetes(configuration) as source:
        yield Cluster(
            changes=source.watch(),
            authenticator=TokenReviewAuthenticator(api, agents, now=time.monotonic),
        )
