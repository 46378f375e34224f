"""Writes docs/cli.md and docs/metrics.md from the code: `python -m agent.cli.pages.reference DIR`.

A test compares the files with what this makes, so they cannot drift.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from agent.cli.examples import EXAMPLES
from agent.cli.main import cli
from mesh.telemetry.names import (
    CONNECTION_METRICS,
    CONTROLLER_METRICS,
    NODE_METRICS,
    REQUEST_LABELS,
    REQUEST_METRICS,
    TCP_LABELS,
    WAYPOINT_METRICS,
    MetricSpec,
)

_CLI_HEAD = """\
# The `meshnode` command

Written by `python -m agent.cli.pages.reference docs`; edit the code, not this file.

Answers are tables for people; `-o json` gives objects with `schema_version`, snake_case names,
64-bit ids as text and times in seconds since the epoch. Errors are one line on standard error; in
JSON mode standard output also holds `{"error": {"code", "message", "hint"}}`.

| exit code | meaning |
|---|---|
| 0 | done; the answer is yes |
| 1 | wrong usage or input, or the answer is no (each command says what "no" is) |
| 2 | no agent is running, or nothing is pinned |
| 3 | not allowed: run it with sudo |
| 4 | the kernel holds maps of another version |
| 5 | `bpf diff` found a difference |
| 130 | ended by Ctrl-C before there was an answer |

`--node` chooses among several nodes on one machine; `MESHNODE_NODE` does the same. TIME is a number
with `ms`, `s`, `m` or `h`, such as `30s`; without a unit it is seconds. Colours are for terminals
only, and off where `NO_COLOR` is set.
"""

_METRICS_HEAD = """\
# Metrics

Written by `python -m agent.cli.pages.reference docs`; edit the code, not this file.

Served at `http://127.0.0.1:15020/metrics` (`meshnode agent --metrics HOST:PORT`), as Prometheus
text or OpenMetrics. A label set that nothing touched for ten minutes is dropped, which looks like
a counter reset. At most 10,000 label sets are held; what comes on top is counted with the label
value `overflow`. No label comes from a client.
"""

_ISTIO_TEXT = """\
## Connections, under Istio's names

Dashboards made for Istio work unchanged. What is not known is `unknown`. `sent` and `received`
have Istio's direction: sent is what the destination answered.
`connection_security_policy` is `mutual_tls` for a tunnel, `none` for bytes that travelled as they
were (also inside a node, where the kernel vouches for the identities), and `unknown` for a tunnel
that failed.
"""


_WAYPOINT_TEXT = """\
## Waypoints

Served at `http://127.0.0.1:15021/metrics` (`meshnode waypoint --admin HOST:PORT`). Requests have
Istio's names with `reporter="waypoint"`; connections that are no HTTP are counted as above, with
the same reporter. Sizes are of bodies.
"""


_CONTROLLER_TEXT = """\
## Controller

Served at `/metrics` of its health port, 15014.
"""


def cli_reference() -> str:
    """The text of docs/cli.md."""
    return "\n".join([_CLI_HEAD, *(_section(command, path) for command, path in commands_below())])


def metrics_reference() -> str:
    """The text of docs/metrics.md."""
    istio = [spec for spec in CONNECTION_METRICS if spec.labels == TCP_LABELS]
    ours = [spec for spec in (*CONNECTION_METRICS, *NODE_METRICS) if spec.labels != TCP_LABELS]
    labels = ", ".join(f"`{name}`" for name in TCP_LABELS)
    parts = [
        _METRICS_HEAD,
        _ISTIO_TEXT,
        _metric_table(istio, with_labels=False),
        f"Labels: {labels}.\n",
        "## The node itself\n",
        _metric_table(ours, with_labels=True),
        _WAYPOINT_TEXT,
        _metric_table(REQUEST_METRICS, with_labels=False),
        f"Labels: {', '.join(f'`{name}`' for name in REQUEST_LABELS)}.\n",
        "The waypoint itself:\n",
        _metric_table(WAYPOINT_METRICS, with_labels=True),
        _CONTROLLER_TEXT,
        _metric_table(CONTROLLER_METRICS, with_labels=True),
    ]
    return "\n".join(parts)


def commands_below() -> Iterator[tuple[click.Command, tuple[str, ...]]]:
    """Every command under the root, with its words."""
    yield from _below(cli, ("meshnode",))


def _below(
    command: click.Command, path: tuple[str, ...]
) -> Iterator[tuple[click.Command, tuple[str, ...]]]:
    if path != ("meshnode",):
        yield command, path
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path[-1])
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _below(child, (*path, name))


def _section(command: click.Command, path: Sequence[str]) -> str:
    context = click.Context(command, info_name=" ".join(path))
    usage = " ".join([*path, *command.collect_usage_pieces(context)])
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    lines = [f"{'#' * len(path)} {' '.join(path)}", "", text, "", f"    {usage}", ""]
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    if options:
        lines += ["| option | meaning |", "|---|---|"]
        lines += [_option(one, context) for one in options]
        lines.append("")
    examples = EXAMPLES.get(" ".join(path[1:]))
    if examples:
        lines += ["```sh", *examples, "```", ""]
    return "\n".join(lines)


def _option(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    names, text = record if record else (option.opts[0], "")
    return f"| `{_cell(names)}` | {_cell(text)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _metric_table(specs: Sequence[MetricSpec], *, with_labels: bool) -> str:
    head = ["| metric | kind | meaning |", "|---|---|---|"]
    if with_labels:
        head = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    rows = []
    for spec in specs:
        labels = (
            f" {', '.join(f'`{name}`' for name in spec.labels) or '-'} |" if with_labels else ""
        )
        rows.append(f"| `{spec.name}` | {spec.kind} |{labels} {spec.help} |")
    return "\n".join([*head, *rows, ""])


def main() -> None:
    """Write both files into the directory given as argument."""
    directory = Path(sys.argv[1])
    (directory / "cli.md").write_text(cli_reference())
    (directory / "metrics.md").write_text(metrics_reference())


if __name__ == "__main__":
    main()
