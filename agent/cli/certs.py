"""`meshnode certs`."""

from __future__ import annotations

import time

import click

from agent.admin.view import CertificateState, CertificateStatus
from agent.cli.exits import Exit
from agent.cli.live import admin
from agent.cli.shared import Output, answer, node_option, output_option, paths_of
from agent.cli.table import age, columns, counted, table


@click.command()
@node_option
@output_option()
@click.pass_context
def certs(context: click.Context, node: str | None, output: Output) -> None:
    """List the certificates in use, soonest to expire first.

    Keys are never shown. Ends with 1 if a certificate is expired or cannot be had.
    """
    found = admin(paths_of(node)).certificates()
    ordered = sorted(found.certificates, key=lambda cert: (cert.not_after, cert.identity))
    answer(output, found, lambda: _table(ordered, time.time()))
    bad = (CertificateState.EXPIRED, CertificateState.FAILED)
    if any(cert.state in bad for cert in ordered):
        context.exit(Exit.NEGATIVE)


def _table(certificates: list[CertificateStatus], now: float) -> str:
    rows = [
        (
            cert.identity,
            cert.state,
            age(cert.not_after - now) if cert.not_after else "",
            age(cert.next_renewal_at - now) if cert.next_renewal_at else "",
            cert.serial,
            cert.reason,
        )
        for cert in certificates
    ]
    heads = columns("IDENTITY STATE >EXPIRES-IN >RENEWED-IN SERIAL REASON")
    return table(heads, rows, counted(len(rows), "certificate"))
