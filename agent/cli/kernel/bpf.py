"""`meshnode bpf`: the kernel's side, read from the pins; works without a running agent."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import click
import msgspec

from agent.capture.views import (
    DropView,
    EnrolledView,
    Finding,
    FlowView,
    IdentityView,
    KernelTable,
    LinkView,
    MapView,
    OrigDstView,
    PolicyView,
    ProgView,
    ServiceView,
    StatsView,
)
from agent.cli.kernel import kernel_tables
from agent.cli.kernel.kernel_tables import Layout, Names, format_entries, plain_entries
from agent.cli.output.exits import Exit
from agent.cli.output.shared import Command, Output, answer, output_option, paths_of
from agent.cli.reach.observers import one_agent
from agent.cli.reach.reach_options import CONTEXT, KUBECONFIG, chosen_cluster, reach_options
from agent.paths import BPF_ROOT, SCHEMA_VERSION, NodePaths

View = TypeVar("View")


@click.group()
def bpf() -> None:
    """Look into the kernel's maps, programs and links.

    On a node it reads the pins under /sys/fs/bpf/meshnode/NODE: it works without a running agent
    (only `diff` and `monitor` ask it) and needs root. Elsewhere it asks an agent of the cluster,
    choose one with --node NAME, which reads them. Nothing is changed. Ends with 2 if nothing is
    pinned, 4 if what is pinned belongs to another version.
    """


def numeric_option(command: Command) -> Command:
    """`-n`."""
    option = click.option(
        "-n", "--numeric", is_flag=True, help="Show numbers instead of names of workloads."
    )
    return option(command)


@bpf.command()
@reach_options
@output_option()
def maps(node: str | None, output: Output) -> None:
    """List maps with their fill; above 80 % is marked.

    Like `bpftool map show pinned /sys/fs/bpf/meshnode/NODE/v2/maps/NAME`.
    """
    _show(node, output, KernelTable.MAPS, MapView, kernel_tables.MAPS)


@bpf.command()
@reach_options
@output_option()
def progs(node: str | None, output: Output) -> None:
    """List programs; run counts need `sysctl kernel.bpf_stats_enabled=1`.

    Like `bpftool prog show pinned /sys/fs/bpf/meshnode/NODE/v2/progs/NAME`.
    """
    _show(node, output, KernelTable.PROGS, ProgView, kernel_tables.PROGS)


@bpf.command()
@reach_options
@output_option()
def links(node: str | None, output: Output) -> None:
    """List links: what is attached where. `defunct`: the target is gone.

    Like `bpftool link show pinned /sys/fs/bpf/meshnode/NODE/v2/links/NAME`.
    """
    _show(node, output, KernelTable.LINKS, LinkView, kernel_tables.LINKS)


@bpf.command()
@reach_options
@numeric_option
@output_option()
def enrolled(node: str | None, numeric: bool, output: Output) -> None:
    """List captured network namespaces with their exclusions (map mn_enrolled)."""
    _show(node, output, KernelTable.ENROLLED, EnrolledView, kernel_tables.ENROLLED, numeric)


@bpf.command()
@reach_options
@output_option()
def origdst(node: str | None, output: Output) -> None:
    """List captured connections that ztunnel has not asked about yet (map mn_orig_dst)."""
    _show(node, output, KernelTable.ORIGDST, OrigDstView, kernel_tables.ORIG_DST)


@bpf.command()
@reach_options
@numeric_option
@output_option()
def identity(node: str | None, numeric: bool, output: Output) -> None:
    """List the addresses the kernel knows and whose they are (map mn_workload)."""
    _show(node, output, KernelTable.IDENTITY, IdentityView, kernel_tables.IDENTITY, numeric)


@bpf.command()
@reach_options
@output_option()
def policy(node: str | None, output: Output) -> None:
    """List verdicts between classes of workloads of this node (map mn_verdict)."""
    _show(node, output, KernelTable.POLICY, PolicyView, kernel_tables.POLICY)


@bpf.command()
@reach_options
@numeric_option
@output_option()
def service(node: str | None, numeric: bool, output: Output) -> None:
    """List virtual addresses with their backends (maps mn_service, mn_backend)."""
    _show(node, output, KernelTable.SERVICE, ServiceView, kernel_tables.SERVICES, numeric)


@bpf.command()
@reach_options
@numeric_option
@output_option()
def stats(node: str | None, numeric: bool, output: Output) -> None:
    """Sum up direct connections by source, destination and port (map mn_stats)."""
    _show(node, output, KernelTable.STATS, StatsView, kernel_tables.STATS, numeric)


@bpf.command()
@reach_options
@numeric_option
@output_option()
def flows(node: str | None, numeric: bool, output: Output) -> None:
    """List open direct connections, oldest first (map mn_flow)."""
    _show(node, output, KernelTable.FLOWS, FlowView, kernel_tables.FLOWS, numeric)


@bpf.command()
@reach_options
@click.option("-a", "--all", "everything", is_flag=True, help="Also what was let through.")
@output_option()
def drops(node: str | None, everything: bool, output: Output) -> None:
    """Count refusals by reason (map mn_reason)."""
    listing = read_listing(node, KernelTable.DROPS, DropView)
    some = [one for one in listing.entries if one.count and (everything or one.refusal)]
    _print(replace(listing, entries=some), output, kernel_tables.DROPS)


@bpf.command()
@reach_options
@output_option()
@click.pass_context
def diff(context: click.Context, node: str | None, output: Output) -> None:
    """Compare the kernel's maps with what the running agent wants them to hold.

    Ends with 5 if they differ. A difference that stays for more than a second is a defect.
    """
    from agent.cli.output.table import columns, counted, table

    found = one_agent(node).bpf_diff()
    rows = [(one.map, one.kind, one.key, one.wanted, one.found) for one in found.entries]
    footer = f"{counted(len(rows), 'difference')} in {counted(found.compared, 'entry')}"
    heads = columns("MAP DIFFERENCE KEY WANTED FOUND")
    answer(output, found, lambda: table(heads, sorted(rows), footer))
    if found.entries:
        context.exit(Exit.DIFFERENT)


@bpf.command()
@reach_options
@output_option()
@click.pass_context
def fsck(context: click.Context, node: str | None, output: Output) -> None:
    """Look for what is wrong in the kernel's state itself.

    Entries of namespaces that are gone, links without a target, dangling backends, maps of another
    version. Ends with 1 if anything is found.
    """
    if _show(node, output, KernelTable.FSCK, Finding, kernel_tables.FINDINGS):
        context.exit(Exit.NEGATIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing(Generic[View]):
    """Entries of one node and the names for their numbers."""

    node: str
    entries: Sequence[View]
    workloads: Mapping[int, str]
    services: Mapping[int, str]


def _show(
    node: str | None,
    output: Output,
    kernel_table: KernelTable,
    kind: type[View],
    layout: Layout[View],
    numeric: bool = False,
) -> int:
    """Print one table; returns the number of entries."""
    listing = read_listing(node, kernel_table, kind)
    _print(listing, output, layout, numeric)
    return len(listing.entries)


def _print(
    listing: Listing[View], output: Output, layout: Layout[View], numeric: bool = False
) -> None:
    names = Names(workloads=listing.workloads, services=listing.services, numeric=numeric)
    body = {
        "schema_version": SCHEMA_VERSION,
        "node": listing.node,
        "entries": plain_entries(layout, listing.entries, names),
    }
    answer(output, body, lambda: format_entries(layout, listing.entries, names))


def read_listing(node: str | None, kernel_table: KernelTable, kind: type[View]) -> Listing[View]:
    """From the pins of this machine, else from an agent of the cluster that was chosen."""
    asked = click.get_current_context().meta
    is_named = asked.get(KUBECONFIG) or asked.get(CONTEXT)
    here = not is_named and _has_pins()
    if here or chosen_cluster(click.get_current_context()) is None:
        return _from_pins(node, kernel_table, kind)
    found = one_agent(node).kernel_table(kernel_table)
    # Ids of 64 bits travel as text: not strict.
    entries = msgspec.convert(found.entries, type=list[kind], strict=False)  # type: ignore[valid-type]
    return Listing(
        node=found.node, entries=entries, workloads=found.workloads, services=found.services
    )


def _has_pins() -> bool:
    """Whether a node of this machine left something in the kernel, as far as we may see."""
    try:
        return any(BPF_ROOT.iterdir())
    except OSError:
        return False


def _from_pins(node: str | None, kernel_table: KernelTable, kind: type[View]) -> Listing[View]:
    from agent.capture.tables import names_of, read_table

    paths = paths_of(node)
    require_pins(paths)
    entries = [one for one in read_table(paths.node, kernel_table) if isinstance(one, kind)]
    workloads, services = names_of(paths.node)
    return Listing(node=paths.node, entries=entries, workloads=workloads, services=services)


def require_pins(paths: NodePaths) -> None:
    """Raise `NotRunning` without pins, `SchemaMismatch` if there are only those of another."""
    from agent.cli.output.exits import NotRunning, SchemaMismatch

    if paths.pin_dir.is_dir():
        # Who may not read them would find nothing, as if nothing was there.
        if not os.access(paths.pin_dir / "maps", os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(paths.pin_dir))
        return
    others = sorted(one.name for one in paths.pin_root.iterdir()) if paths.pin_root.is_dir() else []
    if others:
        raise SchemaMismatch(
            f"node {paths.node} has pins of schema {', '.join(others)}, not v{SCHEMA_VERSION}"
        )
    raise NotRunning(f"nothing is pinned for node {paths.node}")
