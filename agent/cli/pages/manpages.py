"""Writes a manual page per command from the code: `python -m agent.cli.pages.manpages DIR`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from agent.cli.examples import EXAMPLES
from agent.cli.main import cli, meshnode_version
from agent.cli.pages.reference import commands_below

EXITS = (
    ("0", "done; the answer is yes"),
    ("1", "wrong usage or input, or the answer is no"),
    ("2", "no agent is running, or nothing is pinned"),
    ("3", "not allowed: run it with sudo"),
    ("4", "the kernel holds maps of another version"),
    ("5", "a difference was found"),
)


def man_page(command: click.Command, path: tuple[str, ...]) -> str:
    """The page of one command, in the man macros of roff."""
    context = click.Context(command, info_name=" ".join(path))
    text = inspect.cleandoc(command.help or "").replace("\b", "")
    first = text.split("\n", 1)[0]
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        f'.TH "{"-".join(path).upper()}" "8" "" "meshnode {meshnode_version()}" "meshnode"',
        ".SH NAME",
        f"{'-'.join(path)} \\- {_safe(first)}",
        ".SH SYNOPSIS",
        f".B {' '.join(path)}",
        _safe(usage),
        ".SH DESCRIPTION",
        *_paragraphs(text),
    ]
    lines += _options(command, context)
    if isinstance(command, click.Group):
        lines += [".SH COMMANDS", *_children(command, context, path)]
    examples = EXAMPLES.get(" ".join(path[1:]))
    if examples:
        lines += [".SH EXAMPLES", ".nf", *(_safe(line) for line in examples), ".fi"]
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXITS:
        lines += [".TP", f".B {code}", _safe(meaning)]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        yield _safe(" ".join(paragraph.split()))


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = [
        record for one in command.get_params(context) if (record := one.get_help_record(context))
    ]
    if records:
        yield ".SH OPTIONS"
    for names, meaning in records:
        yield ".TP"
        yield f".B {_safe(names)}"
        yield _safe(meaning)


def _children(group: click.Group, context: click.Context, path: tuple[str, ...]) -> Iterator[str]:
    for name in group.list_commands(context):
        yield ".TP"
        yield f".BR {'-'.join((*path, name))} (8)"
        child = group.get_command(context, name)
        yield _safe(child.get_short_help_str(100) if child else "")


def _safe(text: str) -> str:
    """Roff reads backslashes, and lines that begin with a dot or quote, as orders."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def write_pages(directory: Path) -> int:
    """Write all pages; returns how many."""
    directory.mkdir(parents=True, exist_ok=True)
    pages = [(cli, ("meshnode",)), *commands_below()]
    for command, path in pages:
        (directory / f"{'-'.join(path)}.8").write_text(man_page(command, path))
    return len(pages)


if __name__ == "__main__":
    print(f"{write_pages(Path(sys.argv[1]))} pages in {sys.argv[1]}")
