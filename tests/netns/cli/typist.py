"""Types many commands in little time: imports the command line once, and forks for each command.

A child runs the entry point with the arguments, output and exit of a shell's child. Questions and
answers are JSON, one a line, on standard input and output.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path

PRELOADED = (
    "agent.cli.main",
    "agent.cli.output.schemas",
    "agent.cli.pages.reference",
    "agent.capture.inspect",
)


def main() -> None:
    """Answer until standard input ends."""
    for name in PRELOADED:
        import_module(name)
    for line in sys.stdin:
        print(json.dumps(_typed(json.loads(line))), flush=True)


def _typed(arguments: list[str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        out, err = Path(directory, "out"), Path(directory, "err")
        child = os.fork()
        if child == 0:
            _run(arguments, out, err)
        _, status = os.waitpid(child, 0)
        return {
            "status": os.waitstatus_to_exitcode(status),
            "stdout": out.read_text(),
            "stderr": err.read_text(),
        }


def _run(arguments: list[str], out: Path, err: Path) -> None:
    """Be the command; never returns."""
    from agent.cli.main import main as command

    for number, target in ((0, os.devnull), (1, out), (2, err)):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
        descriptor = os.open(target, flags, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, closefd=False) for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    sys.argv = ["meshnode", *arguments]
    status = 70
    try:
        command()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
