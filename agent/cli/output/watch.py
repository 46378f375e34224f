"""Answers that repeat: on a terminal in place, elsewhere one after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import click

from agent.cli.output.shared import Command, Output
from mesh.errors import MeshnodeError

T = TypeVar("T")
INTERVAL_S = 2.0


def watch_option(command: Command) -> Command:
    """`-w, --watch`."""
    option = click.option(
        "-w",
        "--watch",
        is_flag=True,
        help="Ask again every two seconds until Ctrl-C; with -o json one object per line.",
    )
    return option(command)


def answers(
    output: Output,
    find: Callable[[], T],
    human: Callable[[T], str],
    *,
    watch: bool,
    interval_s: float = INTERVAL_S,
    turns: int = 0,
) -> T | None:
    """Print what `find` finds: once, and return it; or, watching, until Ctrl-C (or `turns` times).

    Whoever watches goes on through a time without an answer, which is said. The first must come.
    """

    def form(found: T, indent: int | None) -> str:
        from agent.admin.codec import to_json

        return to_json(found, indent=indent) if output is Output.JSON else human(found)

    first = find()
    if not watch:
        click.echo(form(first, 2))
        return first
    texts = _texts(lambda: form(find(), None), form(first, None), interval_s, turns)
    try:
        if sys.stdout.isatty() and output is not Output.JSON:
            _in_place(texts)
        else:
            for text in texts:
                click.echo(text)
    except KeyboardInterrupt:
        pass
    return None


def _texts(again: Callable[[], str], first: str, interval_s: float, turns: int) -> Iterator[str]:
    yield first
    done = 1
    while not turns or done < turns:
        time.sleep(interval_s)
        done += 1
        try:
            yield again()
        except MeshnodeError as error:
            click.echo(f"meshnode: {error}; asking again", err=True)


def _in_place(texts: Iterator[str]) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(screen=True, auto_refresh=False) as live:
        for text in texts:
            shown = Text.from_ansi(text, no_wrap=True, overflow="ellipsis")
            live.update(shown, refresh=True)
