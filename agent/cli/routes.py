"""`meshnode routes`: which rule takes a request."""

from __future__ import annotations

import time

import click

from agent.admin.matching import RoutesAnswer, RoutesQuestion, find_routes
from agent.admin.question import RequestQuestion
from agent.cli.output.exits import Exit
from agent.cli.output.shared import Output, answer, output_option
from agent.cli.output.table import clean, columns, table
from agent.cli.reach.observers import any_agent
from agent.cli.reach.offline import load_snapshot, source_option
from agent.cli.reach.reach_options import reach_options
from agent.cli.request_options import parse_header, request_options


@click.command()
@click.argument("service")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=None,
    metavar="PORT",
    help="Port of the service. Default: its first.",
)
@click.option("--caller", default="", metavar="NAMESPACE", help="Namespace of the caller.")
@request_options
@source_option
@reach_options
@output_option()
@click.pass_context
def routes(
    context: click.Context,
    service: str,
    port: int | None,
    caller: str,
    method: str | None,
    path: str | None,
    host: str | None,
    headers: tuple[str, ...],
    source: str | None,
    node: str | None,
    output: Output,
) -> None:
    """Say which rule takes a request to SERVICE (NAMESPACE/NAME), and where it goes.

    Nothing is sent. Ends with 1 if no rule takes it (404).
    """
    request = RequestQuestion(
        method=method or "GET",
        path=path or "/",
        host=host or "",
        headers=tuple(map(parse_header, headers)),
        at=time.time(),
    )
    question = RoutesQuestion(service=service, port=port or 0, caller=caller, request=request)
    if source is not None:
        found = find_routes(load_snapshot(source), question)
    else:
        found = any_agent(node, lambda client: client.routes(question))
    answer(output, found, lambda: format_routes(found))
    if found.outcome.startswith("answered"):
        context.exit(Exit.NEGATIVE)


def format_routes(found: RoutesAnswer) -> str:
    """The outcome, and the rules with a mark at the winner."""
    lines = [f"{clean(found.outcome)}{f' by {clean(found.winner)}' if found.winner else ''}"]
    lines += [f"  to   {clean(backend)}" for backend in found.backends]
    lines.append(f"  at   {found.service}:{found.port}, revision {found.revision}")
    if not found.waypoint:
        lines.append("  but  the service has no waypoint, so nobody looks at requests")
    if found.rows:
        rows = [
            (
                row.rule,
                row.consumer,
                " or ".join(row.matches),
                ", ".join(row.backends),
                f"<-- {row.why}" if row.wins else "",
            )
            for row in found.rows
        ]
        lines += ["", table(columns("RULE CALLERS MATCHES BACKENDS WINS"), rows)]
    return "\n".join(lines)
