"""One line per connection, as text or JSON, with the field names of ztunnel's access log.

`bytes_sent` is from source to destination here, `bytes_recv` the other way, whoever reports.
Strings may come from a peer: control characters and everything beyond ASCII are escaped, so that
a line stays a line and a terminal is never driven by it.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum

from mesh.model.connection import ConnectionRecord, Party, Reporter, ResponseFlag

FieldValue = str | bool | int | float

QUEUE_LINES = 4096
RATE_PER_S = 2000.0


_DIRECTIONS = {
    Reporter.SOURCE: "outbound",
    Reporter.DESTINATION: "inbound",
    Reporter.WAYPOINT: "waypoint",
}


class LogFormat(StrEnum):
    """`--access-log`."""

    TEXT = "text"
    JSON = "json"
    OFF = "off"


def record_fields(record: ConnectionRecord) -> dict[str, FieldValue]:
    """The fields of a line in their order; what is unknown is left out."""
    hbone = str(record.hbone_addr) if record.hbone_addr else ""
    fields: dict[str, FieldValue] = {
        "src.addr": str(record.src_addr),
        **_party("src", record.src),
        "dst.addr": str(record.dst_addr),
        "dst.hbone_addr": hbone,
        "dst.service": record.service,
        **_party("dst", record.dst),
        "direction": _DIRECTIONS[record.reporter],
        "path": record.path,
        "mutual_tls": record.mutual_tls,
        "bytes_sent": record.bytes_sent,
        "bytes_recv": record.bytes_received,
        "duration_ms": round(record.duration_s * 1000, 3),
        "flag": record.flag,
        "policy": record.policy,
        "audited": ", ".join(record.audited),
        "dry_run": ", ".join(record.dry_run),
        "error": record.detail,
    }
    return {name: value for name, value in fields.items() if value != ""}


def format_text(record: ConnectionRecord) -> str:
    """One line without its end: time, level, `access`, the event, then `name=value` pairs."""
    level, event = _headline(record)
    pairs = (f"{name}={_escaped(value)}" for name, value in record_fields(record).items())
    return " ".join((_ended_at(record), level, "access", event, *pairs))


def format_json(record: ConnectionRecord) -> str:
    """One JSON object without a line end."""
    level, event = _headline(record)
    head = {"time": _ended_at(record), "level": level, "scope": "access", "message": event}
    return _escaped({**head, **record_fields(record)})


def _headline(record: ConnectionRecord) -> tuple[str, str]:
    if record.flag is ResponseFlag.DENY:
        return "error", "connection denied"
    if record.flag is ResponseFlag.NONE and not record.detail:
        return "info", "connection complete"
    return "error", "connection failed"


def _ended_at(record: ConnectionRecord) -> str:
    moment = datetime.fromtimestamp(record.opened_at + record.duration_s, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _party(side: str, party: Party) -> dict[str, FieldValue]:
    return {
        f"{side}.workload": party.name,
        f"{side}.namespace": party.namespace,
        f"{side}.identity": f"spiffe://{party.identity}" if party.identity else "",
    }


def _escaped(value: FieldValue | Mapping[str, FieldValue]) -> str:
    """JSON in ASCII. It leaves only DEL of all control characters."""
    return json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")


class AccessLog:
    """Writes records without ever holding up its caller.

    Lines pass a token bucket, then a bounded queue that a thread of its own empties, so neither a
    storm of connections nor a full pipe stops the node. What is not written is counted and said in
    the next line. Whoever makes it closes it.

    Args:
        write: takes one line with its end; may block; an `OSError` counts the line as dropped.
        now: monotonic seconds.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        log_format: LogFormat,
        *,
        now: Callable[[], float],
        rate_per_s: float = RATE_PER_S,
        queue_lines: int = QUEUE_LINES,
    ) -> None:
        self._write = write
        self._format = format_json if log_format is LogFormat.JSON else format_text
        self._off = log_format is LogFormat.OFF
        self._now = now
        self._rate_per_s = rate_per_s
        self._tokens = rate_per_s
        self._filled_at = now()
        self._lines: queue.Queue[str | None] = queue.Queue(queue_lines)
        self._dropped = 0
        self._unwritten = 0
        self._reported = 0
        self._thread = threading.Thread(target=self._drain, name="access-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines not written since the start."""
        return self._dropped + self._unwritten

    def record(self, record: ConnectionRecord) -> None:
        """Log one connection, or count it as dropped."""
        if self._off:
            return
        if not self._take_token():
            self._dropped += 1
            return
        try:
            self._lines.put_nowait(self._format(record) + "\n")
        except queue.Full:
            self._dropped += 1

    def skip(self, count: int) -> None:
        """Count connections that nobody made a record of, to keep within the rate."""
        if not self._off:
            self._dropped += count

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued, for at most `timeout_s`. Idempotent."""
        try:
            self._lines.put(None, timeout=timeout_s)
        except queue.Full:
            return  # the reader of our output stopped long ago; the daemon thread ends with us
        self._thread.join(timeout_s)

    def _take_token(self) -> bool:
        now = self._now()
        gained = (now - self._filled_at) * self._rate_per_s
        self._tokens = min(self._rate_per_s, self._tokens + gained)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _drain(self) -> None:
        while (line := self._lines.get()) is not None:
            missing = self._dropped - self._reported
            self._reported += missing
            self._put(self._notice(missing) + line if missing else line)

    def _put(self, text: str) -> None:
        try:
            self._write(text)
        except OSError:
            self._unwritten += 1

    def _notice(self, missing: int) -> str:
        text = f"{missing} connections were not logged: more than the rate limit"
        if self._format is format_json:
            return json.dumps({"level": "warn", "scope": "access", "message": text}) + "\n"
        return f"- warn access {text}\n"
