"""`meshnode bpf monitor`: events of the kernel programs as they happen."""

from __future__ import annotations

import click

from agent.cli.kernel.bpf import bpf
from agent.cli.output.shared import Output, output_option
from agent.cli.output.table import clean, size
from agent.cli.reach.follow import Event, follow
from agent.cli.reach.observers import agents
from agent.cli.reach.reach_options import reach_options
from agent.cli.tap import count_option, show

_COLOURS = {"allowed": "green", "denied": "red", "failed": "yellow"}


@bpf.command()
@click.option("--denied", is_flag=True, help="Only refused connections.")
@count_option
@reach_options
@output_option()
@click.pass_context
def monitor(
    context: click.Context, denied: bool, count: int | None, node: str | None, output: Output
) -> None:
    """Watch direct connections end and refusals happen, with verdict and reason (map mn_events).

    Asks the running agent, who owns the ring's reading end. Events the ring had no room for are
    counted in `lost`. Ctrl-C ends it.
    """
    asked = agents(node)
    query = {"denied": "1"} if denied else {}
    show(context, follow(asked, "/v1/bpf/monitor", query), output, count, format_flow)


def format_flow(event: Event) -> str:
    """One line about a kernel event."""
    if "verdict" not in event:
        return f"... {event.get('lost')} events lost on the way here"
    verdict = str(event["verdict"])
    text = {name: clean(str(value)) for name, value in event.items()}
    words = [
        click.style(f"{verdict:<7}", fg=_COLOURS.get(verdict, "white")),
        f"{text['src'] or text['src_addr']} > {text['dst'] or text['dst_addr']}",
        text["dst_addr"],
        text["reason"],
    ]
    if text["policy"]:
        words.append(f"by {text['policy']}")
    if verdict == "allowed":
        sent, received = event.get("bytes_sent"), event.get("bytes_received")
        if isinstance(sent, int) and isinstance(received, int):
            words.append(f"{size(sent)} out, {size(received)} in")
    if event.get("lost"):
        words.append(f"[{text['lost']} lost]")
    return "  ".join(words)
