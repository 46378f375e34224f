"""Exit codes, and the way from an error to one line for people or one object for programs."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from enum import IntEnum

import click

from mesh.errors import ConfigError, IdentityError, KernelError, MeshnodeError


class Exit(IntEnum):
    """What a command's end means; the same for every command."""

    OK = 0
    NEGATIVE = 1
    """Wrong usage, wrong input, or the answer is no."""
    NOT_RUNNING = 2
    """No agent, or nothing of it in the kernel."""
    PERMISSION = 3
    SCHEMA = 4
    """The kernel holds maps of another version of meshnode."""
    DIFFERENT = 5
    """`bpf diff` found a difference."""
    INTERRUPTED = 130
    """Ctrl-C before the answer: 128 and the number of SIGINT, as shells say it."""


class NotRunning(MeshnodeError):
    """What the command looks at is not there."""


class SchemaMismatch(MeshnodeError):
    """The pins belong to another schema version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as a person and a program see it."""

    exit: Exit
    code: str
    message: str
    hint: str = ""


_SUDO = "run the command with sudo"
_START = "start it with `meshnode agent`; `meshnode check` says what is missing"


def failure_of(error: MeshnodeError | PermissionError) -> Failure:
    """Classify an error."""
    from agent.admin.client import AgentForbidden, AgentNotRunning, AgentRefused
    from agent.capture.pins import OtherSchemaError

    text = str(error)
    match error:
        case AgentNotRunning() | NotRunning():
            return Failure(exit=Exit.NOT_RUNNING, code="not_running", message=text, hint=_START)
        case AgentForbidden():
            return Failure(exit=Exit.PERMISSION, code="permission", message=text)
        case PermissionError():
            message = f"not allowed: {error.filename or text}"
            return Failure(exit=Exit.PERMISSION, code="permission", message=message, hint=_SUDO)
        case SchemaMismatch():
            hint = "`meshnode uninstall` removes them, or run the version that made them"
            return Failure(exit=Exit.SCHEMA, code="schema", message=text, hint=hint)
        case OtherSchemaError():
            return Failure(exit=Exit.SCHEMA, code="schema", message=text)
        case AgentRefused():
            return Failure(exit=Exit.NEGATIVE, code=error.code, message=text)
        case KernelError():
            return _of_kernel(error)
        case ConfigError():
            return Failure(exit=Exit.NEGATIVE, code="bad_input", message=text)
        case IdentityError():
            return Failure(exit=Exit.NEGATIVE, code="identity", message=text)
        case _:
            return Failure(exit=Exit.NEGATIVE, code="failed", message=text)


def _of_kernel(error: KernelError) -> Failure:
    if error.errno in (errno.EPERM, errno.EACCES):
        hint = "" if error.hint else _SUDO
        return Failure(exit=Exit.PERMISSION, code="permission", message=str(error), hint=hint)
    if error.errno == errno.ENOENT:
        return Failure(exit=Exit.NOT_RUNNING, code="not_running", message=str(error), hint=_START)
    return Failure(exit=Exit.NEGATIVE, code="kernel", message=str(error))


def expected_error(group: ExceptionGroup[Exception]) -> MeshnodeError | None:
    """The first error of tasks that ended together; None if one of them is a defect of ours."""
    expected, rest = group.split(MeshnodeError)
    found: MeshnodeError | ExceptionGroup[MeshnodeError] | None = expected
    while isinstance(found, ExceptionGroup):
        found = found.exceptions[0]
    return found if rest is None else None


def report(failure: Failure, *, as_json: bool) -> None:
    """Print one line on standard error and, in JSON mode, an object on standard output."""
    hint = f"; {failure.hint}" if failure.hint else ""
    click.echo(f"meshnode: {failure.message.rstrip('.')}{hint}", err=True)
    if as_json:
        detail = {"code": failure.code, "message": failure.message, "hint": failure.hint}
        click.echo(json.dumps({"error": detail}))
