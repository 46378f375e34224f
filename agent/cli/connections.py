"""`meshnode connections`."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from agent.admin.client import AdminClient
from agent.admin.view import Connections
from agent.cli.output.shared import Output, output_option
from agent.cli.output.table import age, columns, counted, size, table
from agent.cli.output.watch import answers, watch_option
from agent.cli.reach.nodes import as_list, node_answers
from agent.cli.reach.reach_options import reach_options


@click.command()
@watch_option
@reach_options
@output_option()
def connections(watch: bool, node: str | None, output: Output) -> None:
    """List open connections, oldest first."""
    find = node_answers(node, AdminClient.connections)
    answers(output, find, lambda found: _table(as_list(found), time.time()), watch=watch)


def _table(found: Sequence[Connections], now: float) -> str:
    held = [(answer.node, one) for answer in found for one in answer.connections]
    rows = [
        (
            *([node] if len(found) > 1 else []),
            age(now - one.opened_at),
            one.reporter,
            one.path,
            one.src or one.src_addr,
            one.service or one.dst or one.dst_addr,
            one.dst_addr,
            size(one.bytes_sent),
            size(one.bytes_received),
        )
        for node, one in sorted(held, key=lambda one: one[1].opened_at)
    ]
    heads = columns(">AGE SIDE PATH FROM TO ADDRESS >SENT >RECEIVED")
    heads = (*columns("NODE"), *heads) if len(found) > 1 else heads
    return table(heads, rows, counted(len(rows), "connection"))
