"""Small changes to a cluster's objects, for commands that make them for people."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from urllib.parse import quote

import click
import msgspec

from agent.cli.output.shared import Command
from agent.cli.reach.reach_options import kubeconfig_of
from mesh.errors import ConfigError

if TYPE_CHECKING:
    from mesh.sources.kubernetes.transport import KubeApi

T = TypeVar("T")
Manifest: TypeAlias = Mapping[str, object]
GATEWAYS = "/apis/gateway.networking.k8s.io/v1"


def kubeconfig_option(command: Command) -> Command:
    """`--kubeconfig FILE`."""
    option = click.option(
        "--kubeconfig",
        metavar="FILE",
        help="How to reach the cluster. Default: KUBECONFIG, else ~/.kube/config.",
    )
    return option(command)


def in_cluster(kubeconfig: str | None, work: Callable[[KubeApi], Awaitable[T]]) -> T:
    """Do something with the API server; raises `ConfigError` or `KubeError`."""
    from mesh.sources.kubernetes.config import load_configuration
    from mesh.sources.kubernetes.transport import KubeApi

    async def run() -> T:
        configuration = await load_configuration(_file(kubeconfig))
        async with KubeApi(configuration) as api:
            return await work(api)

    return asyncio.run(run())


def _file(given: str | None) -> Path:
    file = kubeconfig_of(given)
    if not file.is_file():
        raise ConfigError(f"there is no kubeconfig at {file}: use --kubeconfig FILE")
    return file


async def read(api: KubeApi, path: str) -> Manifest | None:
    """An object, or None if there is none."""
    from mesh.sources.kubernetes.errors import KubeError

    try:
        body = await api.request("GET", path)
    except KubeError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise
    return msgspec.json.decode(body, type=dict[str, object])


async def patch(api: KubeApi, path: str, change: Manifest) -> Manifest:
    """Merge a change into an object."""
    from mesh.sources.kubernetes.transport import MERGE_PATCH

    body = await api.request(
        "PATCH", path, body=msgspec.json.encode(change), content_type=MERGE_PATCH
    )
    return msgspec.json.decode(body, type=dict[str, object])


def path_of(namespace: str, pod: str = "") -> str:
    """The address of a namespace, or of a pod in it."""
    base = f"/api/v1/namespaces/{quote(namespace, safe='')}"
    return f"{base}/pods/{quote(pod, safe='')}" if pod else base


def gateway_path(namespace: str, name: str = "") -> str:
    """The address of the Gateways of a namespace, or of one."""
    base = f"{GATEWAYS}/namespaces/{quote(namespace, safe='')}/gateways"
    return f"{base}/{quote(name, safe='')}" if name else base


def section(item: Manifest, *names: str) -> Manifest:
    """A mapping inside an object; empty where there is none."""
    found: object = item
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}
