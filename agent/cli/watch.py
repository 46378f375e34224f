"""Answers that repeat: on a terminal in place, elsewhere one after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

from agent.cli.shared import Command

INTERVAL_S = 2.0


def watch_option(command: Command) -> Command:
    """`-w, --watch`."""
    option = click.option(
        "-w", "--watch", is_flag=True, help="Ask again every two seconds until interrupted."
    )
    return option(command)


def repeat(
    show: Callable[[], str], *, watch: bool, interval_s: float = INTERVAL_S, turns: int = 0
) -> None:
    """Print what `show` makes, once or until interrupted (or `turns` times)."""
    if not watch:
        click.echo(show())
        return
    done = 0
    try:
        if sys.stdout.isatty():
            _in_place(show, interval_s, turns)
            return
        while not turns or done < turns:
            click.echo(show())
            done += 1
            if done != turns:
                time.sleep(interval_s)
    except KeyboardInterrupt:
        return


def _in_place(show: Callable[[], str], interval_s: float, turns: int) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(screen=True, auto_refresh=False) as live:
        done = 0
        while not turns or done < turns:
            text = Text.from_ansi(show(), no_wrap=True, overflow="ellipsis")
            live.update(text, refresh=True)
            done += 1
            if done != turns:
                time.sleep(interval_s)
