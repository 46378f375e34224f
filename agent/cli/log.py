"""`meshnode log`."""

from __future__ import annotations

import click

from agent.admin.view import LogLevel
from agent.cli.output.shared import Output, answer, output_option
from agent.cli.reach.observers import Observer, one_observer, open_reach
from agent.cli.reach.reach_options import chosen_cluster, reach_options


@click.command()
@reach_options
@click.option(
    "--level",
    type=click.Choice([str(level) for level in LogLevel]),
    help="Change the level of the running agent and its workers; lost at its next start.",
)
@output_option()
def log(node: str | None, level: str | None, output: Output) -> None:
    """Show or change the log level of the running agent.

    On the node it takes root. To change it from afar takes the Role meshnode-operator in the
    agents' namespace, beside meshnode-viewer; the API server's audit log has who did.
    """
    one = one_observer(node)
    client = one.client
    found = client.set_log(LogLevel(level), _token(one)) if level else client.log()
    answer(output, found, lambda: f"{found.node}: {found.level}")


def _token(one: Observer) -> str:
    """What proves to the agent of a cluster that we may; nothing for the node we are on."""
    context = click.get_current_context()
    choice = chosen_cluster(context)
    if choice is None:
        return ""
    return open_reach(context, choice).operator_token(one.origin.removeprefix("node/"))
