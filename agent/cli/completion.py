"""`meshnode completion`: the script that completes commands in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "fish", "zsh"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in SHELL.

    Commands, options and their choices, as your shell completes file names.
    """
    made = get_completion_class(shell)
    assert made is not None  # the choices are click's own
    root = context.find_root().command
    click.echo(made(root, {}, "meshnode", "_MESHNODE_COMPLETE").source())
