"""`meshnode tap`: connections and requests as they end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice

import click

from agent.cli.output.exits import Exit
from agent.cli.output.shared import Command, Output, output_option
from agent.cli.output.table import clean, size
from agent.cli.reach.follow import Event, Gone, follow
from agent.cli.reach.observers import observers
from agent.cli.reach.reach_options import reach_options
from mesh.errors import ConfigError

_COLOURS = {"ok": "green", "denied": "red", "failed": "yellow"}


def count_option(command: Command) -> Command:
    """`--count`."""
    option = click.option(
        "-c", "--count", type=click.IntRange(1), metavar="N", help="End after N events."
    )
    return option(command)


@click.command()
@click.argument("about", default="")
@click.option("--denied", is_flag=True, help="Only what policy turned away.")
@click.option("--requests", is_flag=True, help="Only requests, as waypoints see them.")
@click.option("--connections", is_flag=True, help="Only connections, as agents see them.")
@count_option
@reach_options
@output_option()
@click.pass_context
def tap(
    context: click.Context,
    about: str,
    denied: bool,
    requests: bool,
    connections: bool,
    count: int | None,
    node: str | None,
    output: Output,
) -> None:
    """Watch connections and requests as they end, refused ones included. Ctrl-C ends it.

    ABOUT is NAMESPACE/NAME of a workload or service at either end, or NAMESPACE/. As it shows what
    others do, it needs root, or in a cluster the right to forward ports of agents and waypoints.
    With -o json: one object per line.

    Of connections that need no proxy's decision (direct ones inside a node, and those of a busy
    pair) a sample is shown one by one, some thirty a second of each pair; the others are lines
    `... N more`. Refused ones are always shown. `... N lost` were too many for this reader.
    """
    if about and "/" not in about:
        raise ConfigError(f"{about!r}: write NAMESPACE/NAME, or {about}/ for a whole namespace")
    query = {"about": about} if about else {}
    query |= {"denied": "1"} if denied else {}
    asked = observers(node)
    if requests != connections:
        asked = [one for one in asked if one.is_node is connections]
    show(context, follow(asked, "/v1/tap", query), output, count, format_event)


def show(
    context: click.Context,
    events: Iterator[Event | Gone],
    output: Output,
    count: int | None,
    line: Callable[[Event], str],
) -> None:
    """Print events until there are enough, nobody is left, or Ctrl-C."""
    shown = 0
    failures: list[Gone] = []
    try:
        for event in events:
            if isinstance(event, Gone):
                failures.append(event)
                click.echo(f"meshnode: {event.origin}: {event.error or 'ended'}", err=True)
                continue
            click.echo(json.dumps(dict(event)) if output is Output.JSON else line(event))
            shown += not _is_count(event)
            if shown == count:
                return
    except KeyboardInterrupt:
        return
    first = next(islice((gone.error for gone in failures if gone.error), 1), None)
    if not shown and first is not None:
        raise first
    context.exit(Exit.NOT_RUNNING if not shown else Exit.OK)


def format_event(event: Event) -> str:
    """One line about an event."""
    if "untold" in event:
        what = f" {_text(event, 'what')}" if event.get("what") else ""
        return f"... {event['untold']} more{what}, not shown one by one (at {event['origin']})"
    if _is_count(event):
        return f"... {event['lost']} events lost at {event['origin']}: this reader is too slow"
    return _request(event) if event.get("kind") == "request" else _connection(event)


def _is_count(event: Event) -> bool:
    """Whether a line tells how many were not shown, and is no event itself."""
    return "untold" in event or set(event) == {"origin", "lost"}


def _connection(event: Event) -> str:
    flag = _text(event, "flag")
    outcome = "denied" if flag == "DENY" else "ok" if flag in ("-", "") else "failed"
    words = [
        _clock(event.get("ended_at")),
        "conn",
        _coloured(outcome),
        f"{_party(event, 'src')} > {_party(event, 'dst')}",
        _text(event, "path"),
        f"by {_text(event, 'reporter')}",
    ]
    if outcome == "ok":
        sent, received = (_number(event, name) for name in ("bytes_sent", "bytes_recv"))
        words.append(f"{size(sent)} out, {size(received)} in, {_text(event, 'duration_ms')} ms")
    else:
        words.append(f"{flag} {_text(event, 'error')}")
        rule = _text(event, "policy")
        if rule and rule not in words[-1]:
            words.append(f"by {rule}")
    return "  ".join(words)


def _request(event: Event) -> str:
    status, policy = _text(event, "status"), _text(event, "policy")
    outcome = "denied" if policy else "failed" if status[:1] in ("5", "0", "") else "ok"
    words = [
        _clock(event.get("ended_at")),
        "req ",
        _coloured(outcome),
        f"{_party(event, 'src')} > {_party(event, 'dst')}",
        f"{_text(event, 'method')} {_text(event, 'path')}",
        status,
        f"{_number(event, 'duration_ms'):.1f} ms",
    ]
    words += [f"by {policy}"] if policy else []
    words += [_text(event, "details")] if outcome != "ok" else []
    return "  ".join(words)


def _coloured(outcome: str) -> str:
    return click.style(f"{outcome:<6}", fg=_COLOURS[outcome])


def _party(event: Event, side: str) -> str:
    name = _text(event, f"{side}.workload")
    if name:
        return f"{_text(event, f'{side}.namespace')}/{name}"
    if side == "dst" and _text(event, "dst.service"):
        return _text(event, "dst.service")
    return _text(event, f"{side}.identity") or _text(event, f"{side}.addr")


def _text(event: Event, name: str) -> str:
    value = event.get(name, "")
    return clean(str(value))


def _number(event: Event, name: str) -> float:
    value = event.get(name, 0)
    return float(value) if isinstance(value, int | float) else 0.0


def _clock(at: object) -> str:
    moment = time.localtime(at) if isinstance(at, int | float) else time.localtime()
    return time.strftime("%H:%M:%S", moment)
