"""What all lines of the request log about requests of one kind have in common.

A line is formatted once with marks in place of what differs; the text between the marks serves all
others. So `mesh.telemetry.request_log` alone says what a line looks like. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

from mesh.model.request import RequestRecord
from mesh.telemetry.request_log import format_instant, format_json, format_text


class Slot(IntEnum):
    """What stands between two pieces of text; `enum lane_slot` of the waypoint's lane."""

    END = 0
    START = 1
    METHOD = 2
    PATH = 3
    AUTHORITY = 4
    REQUEST_ID = 5
    USER_AGENT = 6
    FORWARDED_FOR = 7
    """What the client sent, with a comma and a space behind it if there is any."""
    STATUS = 8
    RECEIVED = 9
    SENT = 10
    DURATION = 11
    UPSTREAM = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LineTemplate:
    """Text and slots in turn, ending with a text and `Slot.END`."""

    parts: tuple[tuple[str, Slot], ...]


_TEXTS = {
    Slot.METHOD: "@line-method@",
    Slot.PATH: "@line-path@",
    Slot.AUTHORITY: "@line-authority@",
    Slot.REQUEST_ID: "@line-id@",
    Slot.USER_AGENT: "@line-agent@",
    Slot.FORWARDED_FOR: "@line-forwarded@",
}
_NUMBERS = {Slot.STATUS: 982451653, Slot.RECEIVED: 961748941, Slot.SENT: 941083987}
_DURATION_S, _UPSTREAM_S = 715225739.0, 694847539.0
_START = 86399.987


def line_template(record: RequestRecord, *, as_json: bool) -> LineTemplate | None:
    """The template of a request's line; None if its own words cannot be told from the marks."""
    marked = replace(
        record,
        started_at=_START,
        method=_TEXTS[Slot.METHOD],
        path=_TEXTS[Slot.PATH],
        authority=_TEXTS[Slot.AUTHORITY],
        request_id=_TEXTS[Slot.REQUEST_ID],
        user_agent=_TEXTS[Slot.USER_AGENT],
        # The caller's own address is at the end of what was sent on.
        forwarded_for=_TEXTS[Slot.FORWARDED_FOR] + record.forwarded_for.rpartition(", ")[2],
        status=_NUMBERS[Slot.STATUS],
        bytes_received=_NUMBERS[Slot.RECEIVED],
        bytes_sent=_NUMBERS[Slot.SENT],
        duration_s=_DURATION_S,
        upstream_s=_UPSTREAM_S,
    )
    written: Callable[[RequestRecord], str] = format_json if as_json else format_text
    line = written(marked)
    marks: dict[Slot, str] = {slot: str(number) for slot, number in _NUMBERS.items()}
    marks |= _TEXTS | {Slot.START: format_instant(marked)}
    for slot, seconds in ((Slot.DURATION, _DURATION_S), (Slot.UPSTREAM, _UPSTREAM_S)):
        marks[slot] = str(seconds * 1000) if as_json else str(round(seconds * 1000))
    if any(line.count(mark) != 1 for mark in marks.values()):
        return None
    parts: list[tuple[str, Slot]] = []
    rest = line
    for slot in sorted(marks, key=lambda slot: line.index(marks[slot])):
        text, _, rest = rest.partition(marks[slot])
        parts.append((text, slot))
    return LineTemplate(parts=(*parts, (rest, Slot.END)))
