"""`meshnode authz check`."""

from __future__ import annotations

import time
from typing import TextIO

import click

from agent.admin.question import AuthzAnswer, AuthzParty, AuthzQuestion, RequestQuestion
from agent.cli.output.exits import Exit
from agent.cli.output.shared import Output, answer, output_option
from agent.cli.output.table import clean, columns, table
from agent.cli.reach.observers import any_agent
from agent.cli.reach.offline import load_snapshot, source_option
from agent.cli.reach.reach_options import reach_options
from agent.cli.request_options import parse_header, request_options
from mesh.jwt.token import MAX_TOKEN_BYTES


@click.group()
def authz() -> None:
    """Ask policy about a connection."""


@authz.command()
@click.argument("src")
@click.argument("dst")
@click.argument("port", type=click.IntRange(1, 65535))
@source_option
@request_options
@click.option(
    "--token",
    type=click.File("r"),
    metavar="FILE",
    help="File (or - for standard input) with a JWT that the request carries as bearer token.",
)
@reach_options
@output_option()
@click.pass_context
def check(
    context: click.Context,
    src: str,
    dst: str,
    port: int,
    source: str | None,
    method: str | None,
    path: str | None,
    host: str | None,
    headers: tuple[str, ...],
    token: TextIO | None,
    node: str | None,
    output: Output,
) -> None:
    """Say whether SRC may connect to PORT of DST, and which rule decides.

    SRC and DST are NAMESPACE/NAME, an IP address or a SPIFFE ID; DST may be a service. Nothing is
    sent. A source outside the mesh is judged as plaintext, without an identity.

    With any of --method, --path, --host, --header and --token the question is about a request:
    where DST has a waypoint, its rules and tokens are judged as the waypoint would.

    Ends with 0 if the connection is allowed, 1 if it is denied.
    """
    request = None
    if method or path or host or headers or token:
        request = RequestQuestion(
            method=method or "GET",
            path=path or "/",
            host=host or "",
            headers=tuple(map(parse_header, headers)),
            token=token.read(MAX_TOKEN_BYTES + 2).strip() if token else "",
            at=time.time(),
        )
    question = AuthzQuestion(src=src, dst=dst, port=port, request=request)
    found = _offline(source, question) if source else _live(node, question)
    answer(output, found, lambda: format_answer(found))
    if not found.allowed:
        context.exit(Exit.NEGATIVE)


def _live(node: str | None, question: AuthzQuestion) -> AuthzAnswer:
    return any_agent(node, lambda client: client.authz(question))


def _offline(source: str, question: AuthzQuestion) -> AuthzAnswer:
    from agent.admin.authz import check_authz

    return check_authz(load_snapshot(source), question)


def format_answer(found: AuthzAnswer) -> str:
    """The verdict, who was judged, and the rules in the order in which they were looked at."""
    verdict = (
        click.style("allowed", fg="green") if found.allowed else click.style("denied", fg="red")
    )
    by = f" by {found.decided_by}" if found.decided_by else ""
    lines = [
        f"{verdict}{by} ({found.decision})",
        f"  from {_who(found.src)}",
        f"  to   {_who(found.dst)} port {found.port}",
        f"  at   revision {found.revision}",
    ]
    if found.waypoint:
        lines.append(f"  via  waypoint {clean(found.waypoint)}")
    if found.providers and found.allowed:
        names = ", ".join(map(clean, found.providers))
        lines.append(f"  if   external authorizer {names} agrees")
    lines += [f"  audited by {ref}" for ref in found.audited]
    lines += [f"  would be denied by {ref} (dry run)" for ref in found.dry_run]
    if found.steps:
        rows = [
            (str(number), step.what, step.action, step.result, step.detail, "<--" * step.decided)
            for number, step in enumerate(found.steps, 1)
        ]
        lines += ["", table(columns(">STEP RULE ACTION RESULT DETAIL DECIDED"), rows)]
    return "\n".join(lines)


def _who(party: AuthzParty) -> str:
    parts = (party.workload, party.address, party.identity or "no identity (plaintext)")
    return clean(", ".join(part for part in parts if part))
