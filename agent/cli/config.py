"""`meshnode config dump`."""

from __future__ import annotations

import json

import click

from agent.cli.live import admin
from agent.cli.shared import JSON_MODE, node_option, paths_of


@click.group()
def config() -> None:
    """Show what the node works with."""


@config.command()
@node_option
@click.pass_context
def dump(context: click.Context, node: str | None) -> None:
    """Print the node's snapshot as JSON: settings, workloads, services, policies, problems.

    It holds no key material.
    """
    context.meta[JSON_MODE] = True
    click.echo(json.dumps(admin(paths_of(node)).config(), indent=2))
