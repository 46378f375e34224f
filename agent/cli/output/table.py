"""Plain tables: aligned, sorted by the caller, never cut to a width, safe for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; numbers stand to the right."""

    title: str
    right: bool = False


def columns(text: str) -> tuple[Column, ...]:
    """Headings from words; one with a leading `>` stands to the right."""
    return tuple(Column(word.removeprefix(">"), word.startswith(">")) for word in text.split())


@dataclass(frozen=True, slots=True)
class Coloured:
    """A cell of our own words in a colour; the only way for a colour into a table."""

    text: str
    colour: str


def table(
    heads: Sequence[Column], rows: Sequence[Sequence[str | Coloured]], footer: str = ""
) -> str:
    """Lay out rows under their headings; empty cells become `-`."""
    lines = [[head.title for head in heads], *rows]
    widths = [max(len(_text(line[i])) for line in lines) for i in range(len(heads))]
    text = [
        "  ".join(
            _pad(cell, width, head.right)
            for cell, width, head in zip(line, widths, heads, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*text, *([footer] if footer else [])])


def clean(text: str) -> str:
    """Escape control characters: names come from files, a terminal must not obey them."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _text(cell: str | Coloured) -> str:
    return clean(cell.text if isinstance(cell, Coloured) else cell) or "-"


def _pad(cell: str | Coloured, width: int, right: bool) -> str:
    text = _text(cell)
    space = " " * (width - len(text))
    if isinstance(cell, Coloured):
        text = click.style(text, fg=cell.colour)
    return space + text if right else text + space


def age(seconds: float) -> str:
    """`12s`, `5m`, `3h`, `2d`; `-` in front for what lies ahead."""
    sign, left = ("-", -seconds) if seconds <= -1 else ("", max(seconds, 0.0))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if left >= 2 * size:
            return f"{sign}{int(left // size)}{unit}"
    return f"{sign}{int(left)}s"


def size(count: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def counted(number: int, what: str) -> str:
    """`1 entry`, `2 entries`, `2 addresses`."""
    if number == 1:
        return f"1 {what}"
    if what.endswith("ry"):
        return f"{number} {what.removesuffix('y')}ies"
    return f"{number} {what}{'es' if what.endswith('s') else 's'}"
