"""`meshnode certs`."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from agent.admin.client import AdminClient
from agent.admin.view import Certificates, CertificateState
from agent.cli.output.exits import Exit
from agent.cli.output.shared import Output, output_option
from agent.cli.output.table import age, columns, counted, table
from agent.cli.output.watch import answers, watch_option
from agent.cli.reach.nodes import as_list, missing_of, node_answers
from agent.cli.reach.reach_options import reach_options


@click.command()
@watch_option
@reach_options
@output_option()
@click.pass_context
def certs(context: click.Context, watch: bool, node: str | None, output: Output) -> None:
    """List the certificates in use, soonest to expire first.

    Keys are never shown. Ends with 1 if a certificate is expired or cannot be had, or a node did
    not answer.
    """
    find = node_answers(node, AdminClient.certificates)
    found = answers(output, find, lambda one: _table(as_list(one), time.time()), watch=watch)
    if found is not None and (missing_of(found) or any(map(_has_bad, as_list(found)))):
        context.exit(Exit.NEGATIVE)


def _has_bad(found: Certificates) -> bool:
    bad = (CertificateState.EXPIRED, CertificateState.FAILED)
    return any(cert.state in bad for cert in found.certificates)


def _table(found: Sequence[Certificates], now: float) -> str:
    held = [(one.node, cert) for one in found for cert in one.certificates]
    rows = [
        (
            *([node] if len(found) > 1 else []),
            cert.identity,
            cert.state,
            age(cert.not_after - now) if cert.not_after else "",
            age(cert.next_renewal_at - now) if cert.next_renewal_at else "",
            cert.serial,
            cert.reason,
        )
        for node, cert in sorted(held, key=lambda one: (one[1].not_after, one[1].identity))
    ]
    heads = columns("IDENTITY STATE >EXPIRES-IN >RENEWED-IN SERIAL REASON")
    heads = (*columns("NODE"), *heads) if len(found) > 1 else heads
    return table(heads, rows, counted(len(rows), "certificate"))
