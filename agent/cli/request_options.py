"""The options that describe a request that is never sent."""

from __future__ import annotations

import click

from agent.cli.output.shared import Command


def request_options(command: Command) -> Command:
    """`--method`, `--path`, `--host` and `--header`."""
    for option in (
        click.option(
            "--header", "headers", multiple=True, metavar="K:V", help="Header; may be repeated."
        ),
        click.option(
            "--host", metavar="NAME", help="Host header. Default: the service's own name."
        ),
        click.option(
            "--path", metavar="PATH", help="Path of the request, with its query if it has one."
        ),
        click.option("--method", metavar="NAME", help="Method of the request, such as GET."),
    ):
        command = option(command)
    return command


def parse_header(text: str) -> tuple[str, str]:
    """Parse `NAME:VALUE`."""
    name, colon, value = text.partition(":")
    if not colon or not name or not name.isascii() or any(sign <= " " for sign in name):
        raise click.UsageError(f"--header {text!r}: write NAME:VALUE")
    return name, value.strip(" \t")
