"""`meshnode connections`."""

from __future__ import annotations

import time

import click

from agent.admin.view import LiveConnection
from agent.cli.live import admin
from agent.cli.shared import Output, answer, node_option, output_option, paths_of
from agent.cli.table import age, columns, counted, size, table


@click.command()
@node_option
@output_option()
def connections(node: str | None, output: Output) -> None:
    """List open connections, oldest first."""
    found = admin(paths_of(node)).connections()
    ordered = sorted(found.connections, key=lambda connection: connection.opened_at)
    answer(output, found, lambda: _table(ordered, time.time()))


def _table(found: list[LiveConnection], now: float) -> str:
    rows = [
        (
            age(now - one.opened_at),
            one.reporter,
            one.path,
            one.src or one.src_addr,
            one.service or one.dst or one.dst_addr,
            one.dst_addr,
            size(one.bytes_sent),
            size(one.bytes_received),
        )
        for one in found
    ]
    heads = columns(">AGE SIDE PATH FROM TO ADDRESS >SENT >RECEIVED")
    return table(heads, rows, counted(len(rows), "connection"))
