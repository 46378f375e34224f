"""The root of `meshnode`. Knows the commands by name and one line; imports one when it is run."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module

import click

from agent.cli.examples import epilog_of
from agent.cli.output.exits import Exit, Failure, expected_error, failure_of, report
from agent.cli.output.shared import JSON_MODE
from mesh.errors import MeshnodeError


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command lives. `summary` is shown without importing it."""

    target: str
    summary: str


COMMANDS: Mapping[str, Lazy] = {
    "status": Lazy("agent.cli.status:status", "Show the node, its pods, workers and problems."),
    "check": Lazy("agent.cli.check:check", "Examine this machine and the node, with hints."),
    "stat": Lazy("agent.cli.stat:stat_command", "Show success, requests, latency and bytes."),
    "edges": Lazy("agent.cli.stat:edges_command", "Show who talks to whom, and how secured."),
    "top": Lazy("agent.cli.stat:top_command", "Show the busiest pairs, live."),
    "tap": Lazy("agent.cli.tap:tap", "Watch connections and requests as they end."),
    "dashboard": Lazy("agent.cli.dashboard:dashboard", "Serve a page about the mesh."),
    "authz": Lazy("agent.cli.authz:authz", "Ask policy about a connection."),
    "describe": Lazy(
        "agent.cli.describe:describe_command", "Tell what the mesh makes of an object."
    ),
    "routes": Lazy("agent.cli.routes:routes", "Say which rule takes a request."),
    "analyze": Lazy("agent.cli.analyze:analyze", "Find what is wrong with objects."),
    "enroll": Lazy("agent.cli.enroll:enroll", "Take namespaces or pods into the mesh."),
    "unenroll": Lazy("agent.cli.enroll:unenroll", "Let namespaces or pods go from the mesh."),
    "connections": Lazy("agent.cli.connections:connections", "List open connections."),
    "certs": Lazy("agent.cli.certs:certs", "List the certificates in use."),
    "config": Lazy("agent.cli.config:config", "Show what the node works with."),
    "bpf": Lazy(
        "agent.cli.kernel.bpf_commands:bpf", "Look into the kernel's maps, programs and links."
    ),
    "log": Lazy("agent.cli.log:log", "Show or change the log level."),
    "bug-report": Lazy("agent.cli.bug_report:bug_report", "Pack what helps to find a fault."),
    "completion": Lazy("agent.cli.completion:completion", "Complete commands in a shell."),
    "token": Lazy("agent.cli.tokens:token", "Make, list and revoke join tokens."),
    "ca": Lazy("agent.cli.authority:ca", "Look after the certificate authority."),
    "install": Lazy("agent.cli.install:install", "Print the manifests of an installation."),
    "upgrade": Lazy("agent.cli.install:upgrade", "Print what is new, or show the difference."),
    "uninstall": Lazy("agent.cli.uninstall:uninstall", "Clean a node, or a whole cluster."),
    "agent": Lazy("agent.cli.daemons:agent", "Run the node agent."),
    "controller": Lazy("agent.cli.daemons:controller", "Run the certificate authority."),
    "waypoint": Lazy("agent.cli.waypoint:waypoint", "Run an L7 proxy, or look after a cluster's."),
    "holder": Lazy("agent.cli.daemons:holder", "Run the process that owns the listeners."),
}


class Root(click.Group):
    """Imports commands on demand and ends every error with a documented exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        module, _, name = lazy.target.partition(":")
        command = getattr(import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{lazy.target} is not a command")
        _show_examples(command, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Know of `-o json` before anything can go wrong: then usage errors are JSON too."""
        if os.environ.get("NO_COLOR"):  # no-color.org: whatever its value, if there is one
            ctx.color = False
        ctx.meta[JSON_MODE] = _wants_json(args)
        return super().parse_args(ctx, args)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: object,
    ) -> click.Context:
        """Like click's, but wrong usage ends with 1: 2 means that nothing is running."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(Exit.NEGATIVE)
        except click.UsageError as error:
            report(_usage_failure(error, self), as_json=_wants_json(args))
            sys.exit(Exit.NEGATIVE)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; every expected error ends as one line and a documented exit code."""
        try:
            return super().invoke(ctx)
        except (MeshnodeError, PermissionError) as error:
            failure = failure_of(error)
        except ExceptionGroup as group:
            expected = expected_error(group)
            if expected is None:
                raise
            failure = failure_of(expected)
        except click.exceptions.NoArgsIsHelpError as error:  # a group alone: its help
            error.show()
            sys.exit(Exit.NEGATIVE)
        except click.ClickException as error:
            failure = _usage_failure(error, self)
        except KeyboardInterrupt:
            sys.exit(Exit.INTERRUPTED)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            failure = Failure(
                exit=Exit.NEGATIVE,
                code="no_space",
                message="the answer could not be written: no space is left there",
            )
        report(failure, as_json=bool(ctx.meta.get(JSON_MODE)))
        sys.exit(failure.exit)


def _wants_json(args: Sequence[str]) -> bool:
    words = " ".join(args)
    return any(form in words for form in ("-o json", "-ojson", "--output json", "--output=json"))


def _usage_failure(error: click.ClickException, root: click.Group) -> Failure:
    """Wrong words in our voice: what is wrong, what may have been meant, where it is written."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "meshnode"
    message = error.format_message().rstrip(".")
    message = message.replace("is not a valid integer range", "is not a whole number")
    message = f"{message[:1].lower()}{message[1:]}"
    group = context.command if context else root
    unknown = re.fullmatch(r"no such command '(.*)'", message)
    if unknown and context and isinstance(group, click.Group):
        close = get_close_matches(unknown[1], group.list_commands(context))
        message += f"; did you mean {' or '.join(close)}?" if close else ""
    hint = f"see `{path} --help`"
    return Failure(exit=Exit.NEGATIVE, code="usage", message=message, hint=hint)


def _show_examples(command: click.Command, words: str) -> None:
    """Below the help of a command and of those under it; doing it twice changes nothing."""
    command.epilog = epilog_of(words)
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            _show_examples(child, f"{words} {name}")


def meshnode_version() -> str:
    """The installed version."""
    # Slow to import, and nearly no command asks.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("meshnode")
    except PackageNotFoundError:
        return "unknown"


def _print_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(f"meshnode {meshnode_version()}")
        context.exit()


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and end.",
)
def cli() -> None:
    """A service mesh without sidecars.

    On a machine with agents commands ask those, elsewhere the cluster that kubectl would ask. TIME
    is a number and ms, s, m or h (`30s`); without a unit it is seconds. `-o json` is for programs.

    Exit codes: 0 done; 1 wrong usage or the answer is no; 2 not running; 3 not allowed; 4 the
    kernel holds maps of another version; 5 a difference was found.
    """


def main() -> None:
    """Entry point of the `meshnode` command."""
    cli(prog_name="meshnode")
