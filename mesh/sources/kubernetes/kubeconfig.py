"""A kubeconfig file, as people have it: read by kubernetes-asyncio, with plugins and OIDC."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import yaml
from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config import ConfigException, load_kube_config

from mesh.errors import ConfigError
from mesh.sources.kubernetes.access import ApiAccess

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


async def access_of_file(file: Path, context: str | None) -> ApiAccess:
    """Whom the file's context names, and the user it names for us. Raises `ConfigError`.

    Args:
        file: the kubeconfig.
        context: None = the file's current one.
    """
    configuration = Configuration()
    try:
        await _load(configuration, file, context)
        tls = _tls_of(configuration)
    except _LOAD_ERRORS as error:
        raise ConfigError(f"{file} cannot be used: {error}") from error

    async def authorization() -> str:
        try:
            return str(await configuration.get_api_key_with_prefix("BearerToken") or "")
        except ConfigException as error:
            raise ConfigError(f"{file}: {error}") from error

    return ApiAccess(
        server=str(configuration.host),
        authorization=authorization,
        tls=tls,
        server_name=configuration.tls_server_name,
        proxy=configuration.proxy,
    )


async def _load(configuration: Configuration, file: Path, context: str | None) -> None:
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


def _tls_of(configuration: Configuration) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        tls.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if not configuration.verify_ssl:
        # `insecure-skip-tls-verify`, asked for in the file.
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return tls


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
