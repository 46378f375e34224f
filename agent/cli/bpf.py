"""`meshnode bpf`: the kernel's side, read from the pins; works without a running agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import click

from agent.capture.views import DropView
from agent.cli import kernel_tables
from agent.cli.exits import Exit
from agent.cli.kernel_tables import Layout, Names, format_entries, plain_entries
from agent.cli.reach_options import reach_options
from agent.cli.shared import Command, Output, answer, node_option, output_option, paths_of
from agent.paths import SCHEMA_VERSION, NodePaths

View = TypeVar("View")


@click.group()
def bpf() -> None:
    """Look into the kernel's maps, programs and links.

    Reads the pins under /sys/fs/bpf/meshnode/NODE, so it works without a running agent; only
    `diff` asks the agent. Nothing is changed. Needs root. Ends with 2 if nothing is pinned, 4 if
    what is pinned belongs to another version.
    """


def numeric_option(command: Command) -> Command:
    """`-n`."""
    option = click.option(
        "-n", "--numeric", is_flag=True, help="Show numbers instead of names of workloads."
    )
    return option(command)


@bpf.command()
@node_option
@output_option()
def maps(node: str | None, output: Output) -> None:
    """List maps with their fill; above 80 % is marked.

    Like `bpftool map show pinned /sys/fs/bpf/meshnode/NODE/v1/maps/NAME`.
    """
    from agent.capture import inspect

    _show(node, output, inspect.maps, kernel_tables.MAPS)


@bpf.command()
@node_option
@output_option()
def progs(node: str | None, output: Output) -> None:
    """List programs; run counts need `sysctl kernel.bpf_stats_enabled=1`.

    Like `bpftool prog show pinned /sys/fs/bpf/meshnode/NODE/v1/progs/NAME`.
    """
    from agent.capture import inspect

    _show(node, output, inspect.progs, kernel_tables.PROGS)


@bpf.command()
@node_option
@output_option()
def links(node: str | None, output: Output) -> None:
    """List links: what is attached where. `defunct`: the target is gone.

    Like `bpftool link show pinned /sys/fs/bpf/meshnode/NODE/v1/links/NAME`.
    """
    from agent.capture import inspect

    _show(node, output, inspect.links, kernel_tables.LINKS)


@bpf.command()
@node_option
@numeric_option
@output_option()
def enrolled(node: str | None, numeric: bool, output: Output) -> None:
    """List captured network namespaces with their exclusions (map mn_enrolled)."""
    from agent.capture import inspect

    _show(node, output, inspect.enrolled, kernel_tables.ENROLLED, numeric)


@bpf.command()
@node_option
@output_option()
def origdst(node: str | None, output: Output) -> None:
    """List captured connections that ztunnel has not asked about yet (map mn_orig_dst)."""
    from agent.capture import inspect

    _show(node, output, inspect.origdst, kernel_tables.ORIG_DST)


@bpf.command()
@node_option
@numeric_option
@output_option()
def identity(node: str | None, numeric: bool, output: Output) -> None:
    """List the addresses the kernel knows and whose they are (map mn_workload)."""
    from agent.capture import inspect

    _show(node, output, inspect.identity, kernel_tables.IDENTITY, numeric)


@bpf.command()
@node_option
@output_option()
def policy(node: str | None, output: Output) -> None:
    """List verdicts between classes of workloads of this node (map mn_verdict)."""
    from agent.capture import inspect

    _show(node, output, inspect.policy, kernel_tables.POLICY)


@bpf.command()
@node_option
@numeric_option
@output_option()
def service(node: str | None, numeric: bool, output: Output) -> None:
    """List virtual addresses with their backends (maps mn_service, mn_backend)."""
    from agent.capture import inspect

    _show(node, output, inspect.service, kernel_tables.SERVICES, numeric)


@bpf.command()
@node_option
@numeric_option
@output_option()
def stats(node: str | None, numeric: bool, output: Output) -> None:
    """Sum up direct connections by source, destination and port (map mn_stats)."""
    from agent.capture import inspect

    _show(node, output, inspect.stats, kernel_tables.STATS, numeric)


@bpf.command()
@node_option
@numeric_option
@output_option()
def flows(node: str | None, numeric: bool, output: Output) -> None:
    """List open direct connections, oldest first (map mn_flow)."""
    from agent.capture import inspect

    _show(node, output, inspect.flows, kernel_tables.FLOWS, numeric)


@bpf.command()
@node_option
@click.option("-a", "--all", "everything", is_flag=True, help="Also what was let through.")
@output_option()
def drops(node: str | None, everything: bool, output: Output) -> None:
    """Count refusals by reason (map mn_reason)."""
    from agent.capture import inspect

    def read(name: str) -> Sequence[DropView]:
        found = inspect.drops(name)
        return [one for one in found if one.count and (everything or one.refusal)]

    _show(node, output, read, kernel_tables.DROPS)


@bpf.command()
@reach_options
@output_option()
@click.pass_context
def diff(context: click.Context, node: str | None, output: Output) -> None:
    """Compare the kernel's maps with what the running agent wants them to hold.

    Ends with 5 if they differ. A difference that stays for more than a second is a defect.
    """
    from agent.cli.observers import one_agent
    from agent.cli.table import columns, counted, table

    found = one_agent(node).bpf_diff()
    rows = [(one.map, one.kind, one.key, one.wanted, one.found) for one in found.entries]
    footer = f"{counted(len(rows), 'difference')} in {counted(found.compared, 'entry')}"
    heads = columns("MAP DIFFERENCE KEY WANTED FOUND")
    answer(output, found, lambda: table(heads, sorted(rows), footer))
    if found.entries:
        context.exit(Exit.DIFFERENT)


@bpf.command()
@node_option
@output_option()
@click.pass_context
def fsck(context: click.Context, node: str | None, output: Output) -> None:
    """Look for what is wrong in the kernel's state itself.

    Entries of namespaces that are gone, links without a target, dangling backends, maps of another
    version. Ends with 1 if anything is found.
    """
    from agent.capture.fsck import fsck as find_faults

    if _show(node, output, find_faults, kernel_tables.FINDINGS):
        context.exit(Exit.NEGATIVE)


def _show(
    node: str | None,
    output: Output,
    read: Callable[[str], Sequence[View]],
    layout: Layout[View],
    numeric: bool = False,
) -> int:
    """Print what `read` finds; returns the number of entries."""
    paths = paths_of(node)
    require_pins(paths)
    entries = read(paths.node)
    names = _names(paths, numeric)
    body = {
        "schema_version": SCHEMA_VERSION,
        "node": paths.node,
        "entries": plain_entries(layout, entries, names),
    }
    answer(output, body, lambda: format_entries(layout, entries, names))
    return len(entries)


def require_pins(paths: NodePaths) -> None:
    """Raise `NotRunning` without pins, `SchemaMismatch` if there are only those of another."""
    from agent.cli.exits import NotRunning, SchemaMismatch

    if paths.pin_dir.is_dir():
        return
    others = sorted(one.name for one in paths.pin_root.iterdir()) if paths.pin_root.is_dir() else []
    if others:
        raise SchemaMismatch(
            f"node {paths.node} has pins of schema {', '.join(others)}, not v{SCHEMA_VERSION}"
        )
    raise NotRunning(f"nothing is pinned for node {paths.node}")


def _names(paths: NodePaths, numeric: bool) -> Names:
    from agent.capture import inspect

    numbering = inspect.saved_numbering(paths.node)
    services = {
        number: f"{key.service}:{key.port}" for number, key in numbering.service_names().items()
    }
    return Names(workloads=numbering.workload_names(), services=services, numeric=numeric)
