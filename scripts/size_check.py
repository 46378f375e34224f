"""Functions and modules stay small enough to be read: `make lint` holds the limits of both.

A function nested in another counts for itself and not for its parent, which is often only the
scope that it closes over.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FUNCTION_LINES = 40
MODULE_LINES = 400
ARGUED = frozenset({("waypoint/codec/h2_head.py", "read_request")})
"""Longer for a reason. That one is a single pass over the fields of every HTTP/2 request, where
each part of its own would be a call per field."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> int:
    """Check the files named, by default all that belong to the project. Status 1 if one is over."""
    found = [problem for path in _paths(sys.argv[1:]) for problem in problems(path)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


def problems(path: Path) -> Iterator[str]:
    """What is too long in a module."""
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    if lines > MODULE_LINES:
        yield f"{path}: {lines} lines; a module has at most {MODULE_LINES}"
    for node in ast.walk(ast.parse(text, str(path))):
        if not isinstance(node, Function) or (str(path), node.name) in ARGUED:
            continue
        if (lines := own_lines(node)) > FUNCTION_LINES:
            where = f"{path}:{node.lineno}: {node.name}"
            yield f"{where}: {lines} lines; a function has at most {FUNCTION_LINES}"


def own_lines(function: Function) -> int:
    """Lines from `def` on, without those of functions nested in it."""
    return _lines(function) - sum(map(_lines, _nested(function)))


def _nested(node: ast.AST) -> Iterator[Function]:
    """The outermost functions inside."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child
        else:
            yield from _nested(child)


def _lines(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _paths(named: list[str]) -> list[Path]:
    if named:
        return [Path(name) for name in named]
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], capture_output=True, text=True, check=True
    ).stdout
    # What is deleted and not yet committed is still listed.
    return [path for path in map(Path, listed.splitlines()) if path.is_file()]


if __name__ == "__main__":
    sys.exit(main())
