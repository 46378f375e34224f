"""`meshnode describe`: what the mesh makes of an object, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

import click

from agent.admin.describe import Description, What, describe
from agent.cli.output.shared import Output, output_option
from agent.cli.output.table import clean
from agent.cli.output.watch import answers, watch_option
from agent.cli.reach.observers import agents, ask
from agent.cli.reach.offline import load_snapshot, source_option
from agent.cli.reach.reach_options import reach_options


@click.command(name="describe")
@click.argument("what", type=click.Choice([str(what) for what in What]))
@click.argument("name")
@source_option
@reach_options
@watch_option
@output_option()
def describe_command(
    what: str, name: str, source: str | None, node: str | None, watch: bool, output: Output
) -> None:
    """Tell in sentences what the mesh makes of a pod, service or namespace.

    NAME is NAMESPACE/NAME, or the name of a namespace. Says whether it is in the mesh, which
    waypoint it has, what it demands of its callers, and which policies and routes are in force
    with their timeouts and retries.
    """

    def find() -> Description:
        if source is not None:
            return describe(load_snapshot(source), What(what), name)
        return _ask(node, What(what), name)

    answers(output, find, format_description, watch=watch)


def _ask(node: str | None, what: What, name: str) -> Description:
    """Ask every agent; the one that runs a pod knows the state of its enrolment."""
    answered = ask(agents(node), lambda client: client.describe(what, name))
    found = list(answered.found.values())
    return next((one for one in found if one.state), found[0])


def format_description(found: Description) -> str:
    """The sentences."""
    lines = {
        What.POD: _pod,
        What.SERVICE: _service,
        What.NAMESPACE: _namespace,
    }[found.what](found)
    return "\n".join(clean(line) for line in lines)


def _pod(found: Description) -> Iterator[str]:
    if not found.meshed:
        yield f"Pod {found.name} is outside the mesh: its connections are plain TCP."
        yield "  Label it or its namespace meshnode.io/dataplane=enabled to take it in."
        return
    yield f"Pod {found.name} is in the mesh, on node {found.node or 'unknown'}."
    if found.state:
        reason = f": {found.reason}" if found.reason else ""
        yield f"  Its enrolment is {found.state}{reason}."
    yield f"  It speaks as {found.identity}, from {', '.join(found.addresses) or 'no address yet'}."
    yield f"  {_mtls(found)}"
    for port in found.ports:
        yield f"  Port {port.port} is {port.mode}, by {port.decided_by}."
    yield f"  {_waypoint(found)}"
    yield from _policies(found)
    yield from _settings(found, "its own address")
    services = ", ".join(found.members) or "no service"
    yield f"  It serves {services}."
    yield from _problems(found)


def _mtls(found: Description) -> str:
    by = f", by {found.mtls_by}" if found.mtls_by else ", the default"
    if found.mtls == "STRICT":
        return f"It takes no plaintext (STRICT{by})."
    return f"It takes plaintext from callers outside the mesh too ({found.mtls}{by})."


def _waypoint(found: Description) -> str:
    if not found.waypoint:
        return "It has no waypoint: requests are not looked into."
    ready = found.waypoint_ready
    if ready == 0:
        return f"It is behind waypoint {found.waypoint}, which has no ready pod: nothing gets in."
    pods = "" if ready < 0 else f" ({ready} ready)"
    return f"It is behind waypoint {found.waypoint}{pods}, and nothing gets past it."


def _policies(found: Description) -> Iterator[str]:
    if not found.policies:
        yield "  No authorization policy applies: every authenticated caller is allowed."
        return
    yield "  These policies apply, in this order:"
    for policy in found.policies:
        dry = ", dry run" if policy.dry_run else ""
        where = "the node" if policy.enforced_by == "node" else f"waypoint {policy.enforced_by}"
        yield (
            f"    {policy.action} {policy.kind} {policy.name} "
            f"({policy.rules} rules, enforced by {where}{dry})"
        )


def _service(found: Description) -> Iterator[str]:
    yield f"Service {found.name} answers at {', '.join(found.addresses) or 'no address'}."
    yield f"  Its endpoints: {', '.join(found.members) or 'none, so callers are refused'}."
    yield f"  {_waypoint(found)}"
    if found.waypoint:
        yield from _policies(found)
        yield from _routes(found)
    yield from _settings(found)
    yield from _problems(found)


def _settings(found: Description, where: str = "") -> Iterator[str]:
    for part, policy in found.settings:
        what = part.replace("_", " ") + (f" at {where}" if where else "")
        yield f"  {what} is set by TrafficPolicy {policy}."


def _routes(found: Description) -> Iterator[str]:
    if not found.routes:
        yield "  No route is about it: requests go to its endpoints, without a time limit."
    for row in found.routes:
        who = f" for callers from {row.consumer}" if row.consumer else ""
        yield f"  Port {row.port}{who}, {row.rule}: {' or '.join(row.matches)}"
        yield f"    to {', '.join(row.backends) or 'nothing: answered 500'}"
        yield f"    {_timing(row.request_timeout_s, row.try_timeout_s, row.retries)}"


def _timing(request_s: float | None, try_s: float | None, retries: str) -> str:
    limit = f"a request may take {request_s:g} s" if request_s else "no time limit"
    each = f", one try {try_s:g} s" if try_s else ""
    return (
        f"{limit}{each}; {f'retries: {retries}' if retries else 'no retries beyond the safe ones'}"
    )


def _namespace(found: Description) -> Iterator[str]:
    enrolled = [one for one in found.members if one.endswith("(in the mesh)")]
    yield f"Namespace {found.name}: {len(enrolled)} of {len(found.members)} pods are in the mesh."
    for member in found.members:
        yield f"    {member}"
    if found.reason:
        yield f"  Not captured: {found.reason}."
    yield (
        f"  Services use waypoint {found.waypoint}."
        if found.waypoint
        else ("  No service uses a waypoint.")
    )
    yield from _policies(found)
    yield from _problems(found)


def _problems(found: Description) -> Iterator[str]:
    for problem in found.problems:
        yield f"  Problem: {problem}"
