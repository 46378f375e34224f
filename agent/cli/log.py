"""`meshnode log`."""

from __future__ import annotations

import click

from agent.admin.view import LogLevel
from agent.cli.observers import one_agent
from agent.cli.reach_options import reach_options
from agent.cli.shared import Output, answer, output_option


@click.command()
@reach_options
@click.option(
    "--level",
    type=click.Choice([str(level) for level in LogLevel]),
    help="Change the level of the running agent and its workers; lost at its next start.",
)
@output_option()
def log(node: str | None, level: str | None, output: Output) -> None:
    """Show or change the log level of the running agent."""
    client = one_agent(node)
    found = client.log() if level is None else client.set_log(LogLevel(level))
    answer(output, found, lambda: f"{found.node}: {found.level}")
