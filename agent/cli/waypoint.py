"""`meshnode waypoint`: run one here, or look after those of a cluster."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from inspect import cleandoc
from typing import TYPE_CHECKING

import click
import msgspec

from agent.cli.enroll import USE_WAYPOINT
from agent.cli.output.exits import Exit
from agent.cli.output.progress import progress
from agent.cli.output.shared import Output, answer, output_option
from agent.cli.output.table import Coloured, columns, counted, table
from agent.cli.output.watch import answers, watch_option
from agent.cli.reach.cluster import (
    GATEWAYS,
    Manifest,
    gateway_path,
    in_cluster,
    kubeconfig_option,
    patch,
    path_of,
    read,
    section,
)
from agent.cli.waypoint_daemon import waypoint as daemon
from mesh.errors import ConfigError
from mesh.model.workload import WaypointFor
from mesh.state.waypoints import WAYPOINT_FOR

if TYPE_CHECKING:
    from mesh.sources.kubernetes.transport import KubeApi

SCHEMA_VERSION = 1
CLASS = "meshnode-waypoint"
WAIT_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WaypointShown:
    """One waypoint. `reason`: why it is not programmed. `serves`: which traffic it takes."""

    namespace: str
    name: str
    programmed: bool
    addresses: tuple[str, ...]
    reason: str
    used_by: tuple[str, ...] = ()
    serves: str = "service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waypoints:
    """`meshnode waypoint list -o json`, and `status`."""

    schema_version: int = SCHEMA_VERSION
    waypoints: tuple[WaypointShown, ...]


def _options_of(command: click.Command) -> list[click.Parameter]:
    """The daemon's options; whether the required ones are there is asked only where it runs."""
    found = []
    for parameter in command.params:
        own = copy.copy(parameter)
        own.required = False
        found.append(own)
    return found


@click.pass_context
def _run_here(context: click.Context, /, **options: object) -> None:
    if context.invoked_subcommand is not None:
        return
    for parameter in daemon.params:
        if parameter.required and options.get(parameter.name or "") is None:
            raise click.UsageError(f"Missing option {parameter.opts[0]!r}.", context)
    context.invoke(daemon, **options)


waypoint = click.Group(
    "waypoint",
    params=_options_of(daemon),
    invoke_without_command=True,
    callback=_run_here,
    # Python 3.13 takes the indentation away itself, older ones do not.
    help=cleandoc(daemon.help or "") + "\n\nThe commands below look after waypoints of a cluster.",
)


@waypoint.command(name="apply")
@click.argument("name", default="waypoint")
@click.option("-n", "--namespace", required=True, metavar="NAME", help="Namespace of the waypoint.")
@click.option(
    "--enroll-namespace", is_flag=True, help="Send requests to its services through it at once."
)
@click.option("--replicas", type=click.IntRange(1, 100), metavar="N", help="Pods. Default: one.")
@click.option(
    "--for",
    "serves",
    type=click.Choice([item.value for item in WaypointFor]),
    help="Which traffic it takes: what is addressed to services (default), to workloads, or all.",
)
@click.option("--wait", is_flag=True, help="Return when it is programmed; 90 s at most.")
@kubeconfig_option
@output_option()
def apply_waypoint(
    name: str,
    namespace: str,
    enroll_namespace: bool,
    replicas: int | None,
    serves: str | None,
    wait: bool,
    kubeconfig: str | None,
    output: Output,
) -> None:
    """Make a waypoint of a namespace, or change it. The controller starts its pods."""
    manifest = gateway(namespace, name, replicas, serves)

    async def work(api: KubeApi) -> WaypointShown:
        path = gateway_path(namespace, name)
        if await read(api, path) is None:
            body = msgspec.json.encode(manifest)
            await api.request("POST", gateway_path(namespace), body=body)
        else:
            await patch(api, path, manifest)
        if enroll_namespace:
            await patch(api, path_of(namespace), {"metadata": {"labels": {USE_WAYPOINT: name}}})
        return await _look(api, path)

    with progress(f"waypoint {namespace}/{name}"):
        found = in_cluster(kubeconfig, work)
        if wait:
            found = _wait(kubeconfig, found)
    _show([found], output)


@waypoint.command(name="list")
@click.option("-n", "--namespace", default="", metavar="NAME", help="Only this namespace.")
@watch_option
@kubeconfig_option
@output_option()
def list_waypoints(namespace: str, watch: bool, kubeconfig: str | None, output: Output) -> None:
    """List waypoints and who uses them."""

    def find() -> Waypoints:
        with progress("asking the cluster"):
            found = in_cluster(kubeconfig, lambda api: _every(api, namespace))
        return Waypoints(waypoints=tuple(found))

    answers(output, find, format_waypoints, watch=watch)


@waypoint.command(name="status")
@click.argument("name", default="waypoint")
@click.option("-n", "--namespace", required=True, metavar="NAME", help="Namespace of the waypoint.")
@kubeconfig_option
@output_option()
@click.pass_context
def show_status(
    context: click.Context, name: str, namespace: str, kubeconfig: str | None, output: Output
) -> None:
    """Say whether a waypoint serves. Ends with 1 if it does not."""
    found = in_cluster(kubeconfig, lambda api: _look(api, gateway_path(namespace, name)))
    _show([found], output)
    if not found.programmed:
        context.exit(Exit.NEGATIVE)


@waypoint.command(name="delete")
@click.argument("name", default="waypoint")
@click.option("-n", "--namespace", required=True, metavar="NAME", help="Namespace of the waypoint.")
@click.option("--yes", is_flag=True, help="Do not ask, and delete even if it is in use.")
@kubeconfig_option
@output_option()
def delete_waypoint(
    name: str, namespace: str, yes: bool, kubeconfig: str | None, output: Output
) -> None:
    """Delete a waypoint.

    What still names it is refused from then on: requests never go past a missing waypoint. So it
    is not deleted while something uses it, unless with --yes.
    """

    async def work(api: KubeApi) -> WaypointShown:
        found = await _look(api, gateway_path(namespace, name))
        users = next((one.used_by for one in await _every(api, namespace) if one.name == name), ())
        if users and not yes:
            raise ConfigError(
                f"{', '.join(users)} would be cut off: unset {USE_WAYPOINT} there first, or --yes"
            )
        await api.request("DELETE", gateway_path(namespace, name))
        return found

    _show([in_cluster(kubeconfig, work)], output, "deleted")


def gateway(namespace: str, name: str, replicas: int | None, serves: str | None = None) -> Manifest:
    """The Gateway that asks for a waypoint."""
    annotations = {} if replicas is None else {"meshnode.io/replicas": str(replicas)}
    labels = {} if serves is None else {WAYPOINT_FOR[0]: serves}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": annotations,
            "labels": labels,
        },
        "spec": {
            "gatewayClassName": CLASS,
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        },
    }


async def _look(api: KubeApi, path: str) -> WaypointShown:
    item = await read(api, path)
    if item is None:
        raise ConfigError(f"there is no waypoint {path.rpartition('/')[2]} in that namespace")
    return shown(item)


async def _every(api: KubeApi, namespace: str) -> list[WaypointShown]:
    from mesh.sources.kubernetes.errors import KubeError

    path = gateway_path(namespace) if namespace else f"{GATEWAYS}/gateways"
    try:
        listed = await read(api, path)
    except KubeError as error:
        if error.status == HTTPStatus.FORBIDDEN:
            raise ConfigError("you may not list Gateways there: choose one with -n") from error
        raise
    if listed is None:
        raise ConfigError("the cluster has no Gateway API: install it first")
    users = await _users(api, namespace)
    found = [shown(item) for item in _items(listed) if section(item, "spec").get("gatewayClassName")
             == CLASS]  # fmt: skip
    return [replace(one, used_by=tuple(users.get((one.namespace, one.name), ()))) for one in found]


async def _users(api: KubeApi, namespace: str) -> dict[tuple[str, str], list[str]]:
    """Namespaces and services that name a waypoint, by its namespace and name."""
    from mesh.state.labels import waypoint_of

    paths = ["/api/v1/namespaces", "/api/v1/services"]
    if namespace:
        paths = [path_of(namespace), f"{path_of(namespace)}/services"]
    users: dict[tuple[str, str], list[str]] = {}
    for path, kind in zip(paths, ("namespace", "service"), strict=True):
        listed = await read(api, path) or {}
        for item in _items(listed) if "items" in listed else [listed]:
            metadata = section(item, "metadata")
            labels = {key: str(value) for key, value in section(metadata, "labels").items()}
            own = str(metadata.get("namespace") or metadata.get("name"))
            where, _, named = (waypoint_of(labels, own, {}) or "").partition("/")
            if named:
                users.setdefault((where, named), []).append(f"{kind} {metadata.get('name')}")
    return users


def _items(listed: Manifest) -> list[Manifest]:
    items = listed.get("items")
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def shown(item: Manifest) -> WaypointShown:
    """What a Gateway's status says."""
    metadata, status = section(item, "metadata"), section(item, "status")
    conditions, addresses = status.get("conditions"), status.get("addresses")
    listed = (
        [one for one in conditions if isinstance(one, Mapping)]
        if isinstance(conditions, list)
        else []
    )
    by_type = {str(one.get("type")): one for one in listed}
    programmed = by_type.get("Programmed", {})
    bad = [one for one in by_type.values() if one.get("status") == "False"]
    reason = str(bad[0].get("message") or bad[0].get("reason")) if bad else ""
    if not by_type:
        reason = "the controller has not looked at it yet"
    return WaypointShown(
        namespace=str(metadata.get("namespace", "")),
        name=str(metadata.get("name", "")),
        programmed=programmed.get("status") == "True",
        addresses=tuple(str(one.get("value")) for one in addresses if isinstance(one, Mapping))
        if isinstance(addresses, list)
        else (),
        reason=reason,
        serves=str(_first(section(metadata, "labels"), WAYPOINT_FOR) or WaypointFor.SERVICE),
    )


def _first(labels: Manifest, names: Sequence[str]) -> object:
    return next((labels[name] for name in names if labels.get(name)), None)


def _wait(kubeconfig: str | None, found: WaypointShown) -> WaypointShown:
    deadline = time.monotonic() + WAIT_S
    path = gateway_path(found.namespace, found.name)
    while not found.programmed:
        if time.monotonic() > deadline:
            raise ConfigError(f"it is not programmed after {WAIT_S:.0f} s: {found.reason}")
        time.sleep(1.0)
        found = in_cluster(kubeconfig, lambda api: _look(api, path))
    return found


def _show(found: Sequence[WaypointShown], output: Output, word: str = "") -> None:
    result = Waypoints(waypoints=tuple(found))
    answer(output, result, lambda: format_waypoints(result, word))


def format_waypoints(found: Waypoints, word: str = "") -> str:
    """The table; `word` stands in for whether one is programmed."""
    rows = [
        (
            one.namespace,
            one.name,
            one.serves,
            word or (Coloured("yes", "green") if one.programmed else Coloured("no", "yellow")),
            ", ".join(one.addresses),
            ", ".join(one.used_by),
            one.reason,
        )
        for one in found.waypoints
    ]
    heads = columns("NAMESPACE NAME FOR PROGRAMMED ADDRESSES USED-BY REASON")
    return table(heads, rows, counted(len(rows), "waypoint"))
