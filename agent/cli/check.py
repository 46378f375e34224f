"""`meshnode check`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import click

from agent.admin.view import SCHEMA_VERSION
from agent.cli.checks.result import Check, State
from agent.cli.output.exits import Exit
from agent.cli.output.progress import progress
from agent.cli.output.shared import Output, node_option, output_option, paths_of
from agent.cli.output.table import clean
from agent.cli.output.watch import answers, watch_option
from agent.cli.reach.cluster import in_cluster, kubeconfig_option
from mesh.model.names import SYSTEM_NAMESPACE

_TICKS = {State.OK: "✓", State.WARNING: "!", State.FAILED: "✗", State.SKIPPED: "-"}
_COLOURS = {
    State.OK: "green", State.WARNING: "yellow", State.FAILED: "red", State.SKIPPED: "bright_black",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All checks in order, as JSON shows them. `node` is empty for a cluster."""

    schema_version: int = SCHEMA_VERSION
    node: str
    passed: bool
    checks: tuple[Check, ...]


@click.command()
@watch_option
@node_option
@output_option(Output.SHORT)
@click.option(
    "--cluster", is_flag=True, help="Examine a cluster instead, before or after the install."
)
@kubeconfig_option
@click.option(
    "--namespace",
    default=SYSTEM_NAMESPACE,
    show_default=True,
    metavar="NAME",
    help="With --cluster: where meshnode is installed.",
)
@click.pass_context
def check(
    context: click.Context,
    watch: bool,
    node: str | None,
    output: Output,
    cluster: bool,
    kubeconfig: str | None,
    namespace: str,
) -> None:
    """Examine this machine and the node, group by group, with a hint for each finding.

    With `--cluster`: the kinds that are read, agents and controller, and what would keep pods out
    of the mesh (settings of Cilium, NetworkPolicies).

    `-o short` prints warnings and failures only. Works before the agent was ever started. Ends
    with 1 if a check failed; warnings alone end with 0.
    """

    def find() -> Report:
        with progress("looking at the cluster" if cluster else "looking at this machine"):
            name, checks = _cluster(kubeconfig, namespace) if cluster else _machine(node)
        passed = all(one.state is not State.FAILED for one in checks)
        return Report(node=name, passed=passed, checks=checks)

    short = output is Output.SHORT
    found = answers(
        output,
        find,
        lambda one: format_short(one.checks) if short else format_checks(one.checks),
        watch=watch,
    )
    if found is not None and not found.passed:
        context.exit(Exit.NEGATIVE)


def _machine(node: str | None) -> tuple[str, tuple[Check, ...]]:
    from agent.cli.checks.facts import machine_facts, node_facts
    from agent.cli.checks.machine import machine_checks
    from agent.cli.checks.node import node_checks
    from agent.cli.checks.waypoints import waypoint_checks, waypoint_facts

    facts = node_facts(paths_of(node))
    return facts.node, (
        *machine_checks(machine_facts(), agent_runs=facts.status is not None),
        *node_checks(facts, time.time()),
        *waypoint_checks(waypoint_facts()),
    )


def _cluster(kubeconfig: str | None, namespace: str) -> tuple[str, tuple[Check, ...]]:
    from agent.cli.checks.cluster import cluster_checks, cluster_facts

    facts = in_cluster(kubeconfig, lambda api: cluster_facts(api, namespace))
    return "", tuple(cluster_checks(facts))


def format_checks(checks: Sequence[Check]) -> str:
    """Groups with a tick per check, hints below what needs one, and a sum."""
    lines: list[str] = []
    for group, members in groupby(checks, lambda one: one.group):
        lines += [group, *(line for one in members for line in _lines(one)), ""]
    return "\n".join([*lines, _sum(checks)])


def format_short(checks: Sequence[Check]) -> str:
    """One line per warning or failure, and the sum."""
    bad = [one for one in checks if one.state in (State.WARNING, State.FAILED)]
    lines = [f"{one.state}: {one.group}: {one.name}: {clean(one.detail)}" for one in bad]
    return "\n".join([*lines, _sum(checks)])


def _lines(one: Check) -> list[str]:
    detail = f": {clean(one.detail)}" if one.detail else ""
    lines = [f"  {click.style(_TICKS[one.state], fg=_COLOURS[one.state])} {one.name}{detail}"]
    if one.hint:
        lines.append(f"      {one.hint}; see {one.see}")
    return lines


def _sum(checks: Sequence[Check]) -> str:
    counts = Counter(one.state for one in checks)
    return ", ".join(f"{counts[state]} {state}" for state in State)
