"""How to reach the API server: a kubeconfig file, or what Kubernetes gives to every pod."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import yaml
from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config

from mesh.errors import ConfigError

REFRESH_S = 60.0
"""Credentials are looked at this often. The plugin itself runs only when its token expires."""
EXEC_TIMEOUT_S = 30.0

log = logging.getLogger(__name__)

# Of a file that is YAML and no kubeconfig the library says whatever its own code trips over.
_LOAD_ERRORS = (
    ConfigException,
    OSError,
    ValueError,
    yaml.YAMLError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)


async def load_configuration(
    kubeconfig: Path | None = None, context: str | None = None
) -> Configuration:
    """Read where the API server is and how we prove who we are.

    Args:
        kubeconfig: None = the service account of the pod we run in.
        context: of the kubeconfig; None = its current one.

    Raises `ConfigError`.
    """
    configuration = Configuration()
    try:
        if kubeconfig is None:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await _load_file(configuration, kubeconfig, context)
    except _LOAD_ERRORS as error:
        raise ConfigError(_hint(kubeconfig, error)) from error
    return configuration


async def _load_file(configuration: Configuration, file: Path, context: str | None) -> None:
    if not await asyncio.to_thread(file.is_file):
        raise ConfigException("there is no such file")
    async with asyncio.timeout(EXEC_TIMEOUT_S):
        loader = await load_kube_config(
            config_file=str(file),
            context=context,
            client_configuration=configuration,
            persist_config=False,
        )
    configuration.refresh_api_key_hook = refresher(loader.load_and_set, time.monotonic)


def refresher(
    load: Callable[[Configuration], Awaitable[None]], now: Callable[[], float]
) -> Callable[[Configuration], Awaitable[None]]:
    """Renew short-lived tokens (exec plugins, OIDC) while we run."""
    loaded_at = now()

    async def refresh(configuration: Configuration) -> None:
        nonlocal loaded_at
        if now() - loaded_at < REFRESH_S:
            return
        loaded_at = now()
        try:
            async with asyncio.timeout(EXEC_TIMEOUT_S):
                await load(configuration)
        except _LOAD_ERRORS as error:
            # What we have may still be good; if not, the API server says so.
            log.warning("credentials for the API server were not renewed: %s", error)

    return refresh


def _hint(kubeconfig: Path | None, error: Exception) -> str:
    if kubeconfig is None:
        return (
            f"the Kubernetes API cannot be found from here: {error}. "
            "Outside a pod write --source kubernetes:KUBECONFIG"
        )
    return f"{kubeconfig} cannot be used: {error}"
