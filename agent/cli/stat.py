"""`meshnode stat`, `meshnode edges` and `meshnode top`: golden numbers from memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import click

from agent.cli.output.progress import progress
from agent.cli.output.shared import Command, Output, output_option
from agent.cli.output.table import Coloured, columns, counted, size, table
from agent.cli.output.watch import answers, watch_option
from agent.cli.reach.observers import Observer, ask, finder, tell_missing
from agent.cli.reach.prometheus import need_prometheus, prometheus_option
from agent.cli.reach.reach_options import reach_options
from agent.options import parse_duration
from mesh.errors import ConfigError
from mesh.telemetry.window import WINDOW_S
from mesh.telemetry.window_answer import Traffic
from mesh.telemetry.window_stats import By, EdgeRow, Golden, edges, stat

SCHEMA_VERSION = 1
TOP_SINCE_S = 15.0
HISTORY_S = 30 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StatAnswer:
    """`meshnode stat -o json`.

    Attributes:
        origins: who answered, and the seconds each answer covers.
        missing: who did not answer, and why: the numbers lack their share.
    """

    schema_version: int = SCHEMA_VERSION
    by: By
    since_s: float
    origins: Mapping[str, float]
    missing: Mapping[str, str]
    rows: tuple[Golden, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgesAnswer:
    """`meshnode edges -o json` and `meshnode top -o json`; see `StatAnswer`."""

    schema_version: int = SCHEMA_VERSION
    since_s: float
    origins: Mapping[str, float]
    missing: Mapping[str, str]
    edges: tuple[EdgeRow, ...]


def since_option(command: Command) -> Command:
    """`--since`."""
    option = click.option(
        "--since",
        "--window",
        default="1m",
        show_default=True,
        metavar="TIME",
        help="How far back to look. Agents and waypoints remember 15m at most; about more than "
        "that, up to 720h, Prometheus is asked.",
    )
    return prometheus_option(option(command))


def namespace_option(command: Command) -> Command:
    """`-n`."""
    option = click.option(
        "-n", "--namespace", default="", metavar="NAME", help="Only this namespace."
    )
    return option(command)


@click.command(name="stat")
@click.argument("by", type=click.Choice([str(by) for by in By]), default=str(By.WORKLOAD))
@click.argument("names", nargs=-1)
@namespace_option
@since_option
@watch_option
@reach_options
@output_option()
def stat_command(
    by: str,
    names: tuple[str, ...],
    namespace: str,
    since: str,
    prometheus: str | None,
    watch: bool,
    node: str | None,
    output: Output,
) -> None:
    """Show success, requests, latency and bytes of what was called.

    BY is namespace, workload, service or route; NAMES (NAMESPACE/NAME) choose rows. SUCCESS is of
    requests where a waypoint counts them, else of connections; 5xx, broken and denied ones are
    failures. Numbers come from the memory of agents and waypoints, of this machine or of a cluster;
    Prometheus is needed for more than 15 minutes only.
    """
    seconds = parse_since(since)

    hear = listener(node, namespace, seconds, prometheus)

    def find() -> StatAnswer:
        heard = hear()
        rows = stat(heard.traffic, By(by), names=names, namespace=namespace)
        if names:
            rows = [row for row in rows if row.name in names]
        return StatAnswer(
            by=By(by),
            since_s=seconds,
            origins=heard.origins,
            missing=heard.missing,
            rows=tuple(rows),
        )

    answers(output, find, format_stat, watch=watch)


@click.command(name="edges")
@namespace_option
@since_option
@watch_option
@reach_options
@output_option()
def edges_command(
    namespace: str,
    since: str,
    prometheus: str | None,
    watch: bool,
    node: str | None,
    output: Output,
) -> None:
    """Show who talks to whom, as whom, and by which path.

    PATH is direct (inside one node, identities vouched for by the kernel), hbone (mutual TLS),
    passthrough (plain TCP), or waypoint for requests. SECURED says whether the caller's identity
    is verified.
    """
    seconds = parse_since(since)

    hear = listener(node, namespace, seconds, prometheus)

    def find() -> EdgesAnswer:
        heard = hear()
        rows = tuple(edges(heard.traffic, namespace))
        return EdgesAnswer(
            since_s=seconds, origins=heard.origins, missing=heard.missing, edges=rows
        )

    answers(output, find, lambda found: format_edges(found.edges), watch=watch)


@click.command(name="top")
@namespace_option
@click.option("--once", is_flag=True, help="Print once and end.")
@click.option(
    "--rows",
    default=25,
    show_default=True,
    type=click.IntRange(1),
    metavar="N",
    help="Show this many.",
)
@reach_options
@output_option()
def top_command(namespace: str, once: bool, rows: int, node: str | None, output: Output) -> None:
    """Show the busiest pairs of the last 15 seconds, live. Ctrl-C ends it."""

    hear = listener(node, namespace, TOP_SINCE_S, None)

    def find() -> EdgesAnswer:
        heard = hear()
        busiest = sorted(edges(heard.traffic, namespace), key=_busyness, reverse=True)[:rows]
        return EdgesAnswer(
            since_s=TOP_SINCE_S, origins=heard.origins, missing=heard.missing, edges=tuple(busiest)
        )

    answers(output, find, lambda found: format_top(found.edges), watch=not once)


def parse_since(text: str) -> float:
    """Parse `--since`."""
    seconds = parse_duration(text)
    if not 1 <= seconds <= HISTORY_S:
        raise ConfigError(f"--since {text}: use 1s to {HISTORY_S / 3600:.0f}h")
    return seconds


def listener(
    node: str | None, namespace: str, seconds: float, prometheus: str | None
) -> Callable[[], Heard]:
    """Whoever knows of so long a time: agents and waypoints, or Prometheus."""
    if seconds <= WINDOW_S:
        asked = finder(node, namespace)
        return lambda: traffic(asked(), seconds)
    if node not in (None, os.environ.get("MESHNODE_NODE")):
        raise ConfigError(f"--node is for the last {WINDOW_S / 60:.0f}m: Prometheus knows no nodes")
    server = need_prometheus(prometheus)

    def hear() -> Heard:
        with progress(f"asking {server.name}"):
            found = server.traffic(seconds)
        return Heard(traffic=[found], origins={server.name: seconds}, missing={})

    return hear


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What everybody answered, and who did not."""

    traffic: Sequence[Traffic]
    origins: Mapping[str, float]
    missing: Mapping[str, str]


def traffic(asked: Sequence[Observer], seconds: float) -> Heard:
    """Ask everybody."""
    found = ask(asked, lambda client: client.traffic(seconds))
    tell_missing(found)
    return Heard(
        traffic=list(found.found.values()),
        origins={origin: one.covered_s for origin, one in found.found.items()},
        missing=found.reasons,
    )


def _busyness(row: EdgeRow) -> tuple[float, float, float]:
    golden = row.traffic
    return (golden.rps or 0.0, golden.connections_s, golden.sent_s + golden.received_s)


def format_stat(found: StatAnswer) -> str:
    """The table of `stat`."""
    rows = [(row.name, *_numbers(row)) for row in found.rows]
    heads = columns("NAME >SUCCESS >RPS >P50 >P95 >P99 >CONN/S >DENIED >SENT/S >RECEIVED/S")
    return table(heads, rows, _footer(len(rows), str(found.by), found.origins))


def format_edges(found: Sequence[EdgeRow]) -> str:
    """The table of `edges`."""
    rows = [
        (
            row.src,
            row.dst,
            row.path,
            _secured(row),
            row.src_identity,
            row.dst_identity,
            _share(row.traffic.success),
            _rate(row.traffic.rps),
            _rate(row.traffic.connections_s),
        )
        for row in found
    ]
    heads = columns("FROM TO PATH SECURED CLIENT-ID SERVER-ID >SUCCESS >RPS >CONN/S")
    return table(heads, rows, counted(len(rows), "edge"))


def format_top(found: Sequence[EdgeRow]) -> str:
    """The table of `top`."""
    rows = [(row.src, row.dst, row.path, *_numbers(row.traffic)) for row in found]
    heads = columns("FROM TO PATH >SUCCESS >RPS >P50 >P95 >P99 >CONN/S >DENIED >SENT/S >RECEIVED/S")
    return table(heads, rows, counted(len(rows), "edge"))


def _numbers(row: Golden) -> tuple[str | Coloured, ...]:
    return (
        _share(row.success),
        _rate(row.rps),
        _ms(row.p50_ms),
        _ms(row.p95_ms),
        _ms(row.p99_ms),
        _rate(row.connections_s),
        str(row.denied) if row.denied else "",
        size(row.sent_s) if row.sent_s else "",
        size(row.received_s) if row.received_s else "",
    )


def _secured(row: EdgeRow) -> Coloured:
    return Coloured("yes", "green") if row.secured else Coloured("no", "yellow")


def _share(success: float | None) -> str | Coloured:
    if success is None:
        return ""
    text = f"{success:.2%}"
    return Coloured(text, "green" if success >= 0.99 else "yellow" if success >= 0.95 else "red")


def _rate(number: float | None) -> str:
    if not number:
        return ""
    return f"{number:.2f}" if number < 10 else f"{number:.0f}"


def _ms(number: float | None) -> str:
    if number is None:
        return ""
    return f"{number / 1000:.1f}s" if number >= 10_000 else f"{number:.3g}ms"


def _footer(rows: int, what: str, answered: Mapping[str, float]) -> str:
    covered = min(answered.values(), default=0.0)
    return f"{counted(rows, what)}; {len(answered)} answered for the last {covered:.0f}s"
