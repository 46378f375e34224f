"""`meshnode token`: join tokens of a standalone certificate authority."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from agent.cli.output.shared import Output, answer, output_option
from agent.cli.output.table import age, columns, counted, table

ca_dir_option = click.option(
    "--ca",
    "ca_dir",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    envvar="MESHNODE_CA",
    help="State directory of the certificate authority. Also from MESHNODE_CA.",
)


@click.group()
def token() -> None:
    """Make, list and revoke join tokens.

    A node of another machine proves itself with one when it asks for certificates. Works with the
    certificate authority running or stopped.
    """


@token.command()
@click.argument("node")
@ca_dir_option
@output_option()
def create(node: str, ca_dir: Path, output: Output) -> None:
    """Make a token for NODE and print it. It is shown this once: only a hash is kept."""
    from controller.admin import create_token

    text = create_token(ca_dir, node, now=time.time(), random_bytes=os.urandom)
    answer(output, {"schema_version": 1, "node": node, "token": text}, lambda: text)


@token.command("list")
@ca_dir_option
@output_option()
def list_(ca_dir: Path, output: Output) -> None:
    """List tokens by node, without their secrets."""
    from controller.admin import list_tokens

    records = list_tokens(ca_dir)
    found = [
        {"token_id": one.token_id, "node": one.node, "created_at": one.created_at}
        for one in records
    ]
    now = time.time()
    rows = [(one.token_id, one.node, age(now - one.created_at)) for one in records]
    footer = counted(len(rows), "token")
    heads = columns("ID NODE >AGE")
    body = {"schema_version": 1, "tokens": found}
    answer(output, body, lambda: table(heads, rows, footer))


@token.command()
@click.argument("token_id")
@ca_dir_option
@output_option()
def revoke(token_id: str, ca_dir: Path, output: Output) -> None:
    """Refuse the token TOKEN_ID from now on.

    Certificates that it brought stay valid until they expire.
    """
    from controller.admin import revoke_token

    revoke_token(ca_dir, token_id)
    answer(output, {"schema_version": 1, "revoked": token_id}, lambda: f"revoked {token_id}")
