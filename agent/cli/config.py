"""`meshnode config`: what nodes work with, and how it differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import click

from agent.cli.output.exits import Exit
from agent.cli.output.shared import JSON_MODE, Output, answer, output_option
from agent.cli.output.table import columns, counted, table
from agent.cli.reach.observers import agents, ask, one_agent, one_waypoint, tell_missing
from agent.cli.reach.offline import load_snapshot, source_option
from agent.cli.reach.reach_options import reach_options
from mesh.errors import ConfigError

SCHEMA_VERSION = 1
_KEYS = ("uid", "key")


class Difference(StrEnum):
    """How an object of the second side differs from the first."""

    MISSING = "missing"
    EXTRA = "extra"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDifference:
    """One object. `fields` differ, where both sides have it."""

    kind: str
    key: str
    difference: Difference
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDiff:
    """`meshnode config diff -o json`."""

    schema_version: int = SCHEMA_VERSION
    first: str
    second: str
    compared: int
    entries: tuple[ConfigDifference, ...]


@click.group()
def config() -> None:
    """Show what the node works with."""


@config.command()
@click.argument("of", default="")
@reach_options
@click.pass_context
def dump(context: click.Context, of: str, node: str | None) -> None:
    """Print as JSON what a node works with: settings, workloads, services, policies, problems.

    OF is the node's name, or NAMESPACE/NAME of a waypoint, which also says what is in force on each
    of its services. Keys and tokens are never in it, nor what routes and authorizers are given as
    credentials: `[hidden]` stands in its place.
    """
    context.meta[JSON_MODE] = True
    of = of.removeprefix("node/").removeprefix("waypoint/")
    found = one_waypoint(of).waypoint_config() if "/" in of else one_agent(of or node).config()
    click.echo(json.dumps(found, indent=2))


@config.command(name="diff")
@click.argument("nodes", nargs=-1)
@source_option
@reach_options
@output_option()
@click.pass_context
def diff_command(
    context: click.Context,
    nodes: tuple[str, ...],
    source: str | None,
    node: str | None,
    output: Output,
) -> None:
    """Compare what two NODES work with, or a node with the objects of --source.

    Without NODES: the only two. Ends with 5 if they differ.
    """
    if len(nodes) > 2:
        raise ConfigError("name two nodes, or one with --source")
    if source is not None:
        sides = [(source, _of_source(source)), _of_node(nodes[0] if nodes else node)]
    elif nodes:
        sides = [_of_node(name) for name in nodes]
    else:
        answers = ask(agents(None), lambda c: c.config())
        tell_missing(answers)
        sides = list(answers.found.items())
    if len(sides) != 2:
        raise ConfigError("name two nodes, or one with --source")
    (first, before), (second, after) = sides
    found = ConfigDiff(
        first=first,
        second=second,
        compared=len({*_objects(before), *_objects(after)}),
        entries=tuple(compare(before, after)),
    )
    answer(output, found, lambda: format_diff(found))
    if found.entries:
        context.exit(Exit.DIFFERENT)


def _of_node(name: str | None) -> tuple[str, Mapping[str, object]]:
    found = one_agent(name).config()
    return f"node/{found['node']}", found


def _of_source(source: str) -> Mapping[str, object]:
    from agent.admin.config import config_dump

    return config_dump(source, load_snapshot(source))


def compare(first: Mapping[str, object], second: Mapping[str, object]) -> list[ConfigDifference]:
    """Differences of two dumps, by kind and key."""
    before, after = _objects(first), _objects(second)
    found = []
    for name in sorted({*before, *after}):
        kind, key = name
        if name not in after:
            found.append(ConfigDifference(kind=kind, key=key, difference=Difference.MISSING))
        elif name not in before:
            found.append(ConfigDifference(kind=kind, key=key, difference=Difference.EXTRA))
        elif before[name] != after[name]:
            found.append(
                ConfigDifference(
                    kind=kind,
                    key=key,
                    difference=Difference.DIFFERENT,
                    fields=_fields(before[name], after[name]),
                )
            )
    return found


def _objects(dump: Mapping[str, object]) -> dict[tuple[str, str], object]:
    """Every object of a dump; settings are one too."""
    found: dict[tuple[str, str], object] = {("settings", ""): dump.get("settings")}
    for kind, items in dump.items():
        for item in items if isinstance(items, list) else ():
            key = next((item[name] for name in _KEYS if name in item), None)
            if isinstance(key, str):
                found[kind, key] = item
    return found


def _fields(before: object, after: object) -> tuple[str, ...]:
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return ()
    names = {*before, *after}
    return tuple(sorted(str(name) for name in names if before.get(name) != after.get(name)))


def format_diff(found: ConfigDiff) -> str:
    """The table of differences."""
    rows = [(one.kind, one.key, one.difference, ", ".join(one.fields)) for one in found.entries]
    footer = (
        f"{counted(len(rows), 'difference')} in {counted(found.compared, 'object')}: "
        f"{found.first} against {found.second}"
    )
    return table(columns("KIND OBJECT DIFFERENCE FIELDS"), rows, footer)
