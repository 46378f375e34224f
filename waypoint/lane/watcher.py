"""The part of the engine that tells of requests: records, lines, and who wants them."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.model.request import RequestRecord
from mesh.telemetry.line_template import LineTemplate, Slot, line_template
from waypoint.lane import _lane  # type: ignore[attr-defined] # compiled
from waypoint.lane.record import LaneRecord, Log, TapBounds, Watch

ffi, lib = _lane.ffi, _lane.lib
_LOGS = {
    Log.NONE: lib.LANE_LOG_NONE,
    Log.ERRORS: lib.LANE_LOG_ERRORS,
    Log.ALL: lib.LANE_LOG_ALL,
}
_SLOTS = {
    Slot.END: lib.LANE_SLOT_END,
    Slot.START: lib.LANE_SLOT_START,
    Slot.METHOD: lib.LANE_SLOT_METHOD,
    Slot.PATH: lib.LANE_SLOT_TARGET,
    Slot.AUTHORITY: lib.LANE_SLOT_HOST,
    Slot.REQUEST_ID: lib.LANE_SLOT_REQUEST_ID,
    Slot.USER_AGENT: lib.LANE_SLOT_USER_AGENT,
    Slot.FORWARDED_FOR: lib.LANE_SLOT_FORWARDED_FOR,
    Slot.STATUS: lib.LANE_SLOT_STATUS,
    Slot.RECEIVED: lib.LANE_SLOT_RECEIVED,
    Slot.SENT: lib.LANE_SLOT_SENT,
    Slot.DURATION: lib.LANE_SLOT_SECONDS,
    Slot.UPSTREAM: lib.LANE_SLOT_ANSWERED,
}
_RECORD_ROOM = 1 << 18
MAX_LINES = 4096
"""Kinds of lines that the engine writes by itself between two changes of the world."""


class Watcher:
    """One per engine.

    Attributes:
        entries: the engine's own, by number.
    """

    def __init__(self, lane: object) -> None:
        self._lane = lane
        self._room: object = None
        self._as_json = False
        self._lines: dict[object, object] = {}
        self.entries: dict[int, object] = {}

    def watch(self, watch: Watch) -> None:
        """Say what leaves records, and what becomes of traces."""
        found = {
            "log": _LOGS[watch.log],
            "traces": watch.traces,
            "exports": watch.exports,
            "log_share": watch.log_share,
            "sampling": -1.0 if watch.sampling is None else watch.sampling,
        }
        lib.lane_watch_requests(self._lane, ffi.new("struct lane_watch *", found))
        self._as_json = watch.log_json
        style = (0, 3) if watch.log_json else (1, 0)
        lib.lane_style_lines(self._lane, ffi.new("struct lane_line_style *", style))

    def tap(self, taps: Sequence[TapBounds]) -> bool:
        """Replace who watches; False if there are too many."""
        # cffi does not keep what a struct points to.
        kept = [(ffi.new("char[]", t.method), ffi.new("char[]", t.path)) for t in taps]
        rows = [
            (method, path, tap.status_from, tap.status_to)
            for (method, path), tap in zip(kept, taps, strict=True)
        ]
        made = ffi.new("struct lane_tap[]", rows)
        return bool(lib.lane_tap_requests(self._lane, made, len(rows)) == 0)

    def allow_lines(self, lines: int) -> int:
        """How many requests may be logged from now on; what was left before."""
        return int(lib.lane_allow_lines(self._lane, lines))

    def take_records(self, most: int) -> bytes:
        """Up to so many records (`waypoint.lane.record`); empty: there are no more."""
        if self._room is None:
            self._room = ffi.new("char[]", _RECORD_ROOM)
        length = lib.lane_take_records(self._lane, self._room, _RECORD_ROOM, most)
        return bytes(ffi.buffer(self._room, length))

    def take_lines(self) -> bytes:
        """Lines that the engine wrote by itself."""
        where = ffi.new("char **")
        length = lib.lane_take_lines(self._lane, where)
        return bytes(ffi.buffer(where[0], length)) if length else b""

    def take_lost(self) -> tuple[int, int, int]:
        """Records without room since the last call: of log, taps, traces."""
        lost = ffi.new("struct lane_lost *")
        lib.lane_take_lost(self._lane, lost)
        return int(lost.logged), int(lost.tapped), int(lost.traced)

    # --- lines ----------------------------------------------------------------------------------

    def learn_line(self, found: LaneRecord, record: RequestRecord) -> None:
        """Let the engine write lines like this one by itself from now on."""
        entry = self.entries.get(found.entry)
        if entry is None or found.failure or found.upstream_s is None:
            return
        address = record.forwarded_for.rpartition(", ")[2]
        key = (record.src, record.dst, record.upstream_addr, record.service, record.route, address)
        line = self._lines.get(key)
        if line is None and len(self._lines) < MAX_LINES:
            template = line_template(record, as_json=self._as_json)
            line = self._lines[key] = ffi.NULL if template is None else self._add(template)
        if line is not None and line != ffi.NULL:
            lib.lane_use_line(entry, found.target, line)

    def _add(self, template: LineTemplate) -> object:
        texts = [text.encode("ascii") for text, _ in template.parts]
        ends = [sum(map(len, texts[: index + 1])) for index in range(len(texts))]
        slots = [_SLOTS[slot] for _, slot in template.parts]
        text = b"".join(texts)
        ends_made, slots_made = ffi.new("uint32_t[]", ends), ffi.new("uint32_t[]", slots)
        return lib.lane_add_line(self._lane, text, len(text), ends_made, slots_made, len(slots))

    def render_line(self, template: LineTemplate, record: bytes) -> bytes:
        """For tests: the line about a record."""
        room = ffi.new("char[]", _RECORD_ROOM)
        line = self._add(template)
        length = lib.lane_render_line(self._lane, line, record, room, _RECORD_ROOM)
        return bytes(ffi.buffer(room, length))

    def forget(self) -> None:
        """The engine is about to forget its lines."""
        self._lines.clear()
