"""`meshnode ca`: the state directory of a standalone certificate authority."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.shared import Output, answer, output_option
from agent.cli.table import age, columns, counted, table
from agent.cli.tokens import ca_dir_option

if TYPE_CHECKING:
    from controller.admin import RootSummary


@click.group()
def ca() -> None:
    """Look after the certificate authority.

    Works with it running or stopped; a running one sees a change within a second.
    """


@ca.command()
@ca_dir_option
@click.option("--trust-domain", default="cluster.local", show_default=True, metavar="NAME")
@output_option()
def init(ca_dir: Path, trust_domain: str, output: Output) -> None:
    """Make a new certificate authority in DIR; never overwrites one."""
    from controller.admin import init_ca, list_roots

    init_ca(ca_dir, trust_domain=trust_domain, now=time.time(), random_bytes=os.urandom)
    _show(output, list_roots(ca_dir))


@ca.command()
@ca_dir_option
@output_option()
def roots(ca_dir: Path, output: Output) -> None:
    """List the roots and the stage each is in."""
    from controller.admin import list_roots

    _show(output, list_roots(ca_dir))


@ca.command("rotate-root")
@ca_dir_option
@output_option()
def rotate_root(ca_dir: Path, output: Output) -> None:
    """Publish a new root next to the old one.

    The running authority lets the new root sign once every node has had time to trust it, and
    retires the old one when nothing signed by it is valid any more.
    """
    from controller import admin

    _show(output, admin.rotate_root(ca_dir, now=time.time(), random_bytes=os.urandom))


@ca.command("activate-root")
@ca_dir_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option()
def activate_root(ca_dir: Path, yes: bool, output: Output) -> None:
    """Let a published root sign at once, for a compromised key.

    Nodes that have not fetched the new bundle yet refuse its certificates until they have.
    """
    from controller import admin

    if not yes:
        click.confirm("Sign with the new root at once?", abort=True, err=True)
    _show(output, admin.activate_root(ca_dir, now=time.time()))


def _show(output: Output, found: Sequence[RootSummary]) -> None:
    now = time.time()
    rows = [(one.fingerprint, str(one.stage), age(now - one.since)) for one in found]
    heads = columns("SHA256 STAGE >SINCE")
    body = {"schema_version": 1, "roots": found}
    answer(output, body, lambda: table(heads, rows, counted(len(rows), "root")))
