"""Ended requests of one worker, until they are handed to the supervisor."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from mesh.http1.message import Headers
from mesh.model.connection import ConnectionRecord, Party, ResponseFlag
from mesh.model.request import RequestRecord
from mesh.model.span import Span
from mesh.telemetry import access_log, names
from mesh.telemetry.request_log import (
    LineBudget,
    LogMode,
    RequestLog,
    format_json,
    format_notice,
    format_text,
    is_failure,
)
from mesh.telemetry.requests import RequestGroup, RequestTally
from mesh.telemetry.trace_context import Trace
from waypoint.contract import Origin
from waypoint.feed import (
    ConnectionEnded,
    ConnectionOpened,
    Connections,
    Counts,
    Lines,
    Spans,
    Tally,
    Tapped,
    ToSupervisor,
)
from waypoint.telemetry.tap import WorkerTaps
from waypoint.telemetry.tracing import request_span

MAX_PENDING_LINES = 4096
"""Lines of the access log in memory; more are dropped and counted."""
MAX_PENDING_BYTES = 8 << 20
"""The same of lines that a lane wrote."""
MAX_PENDING_SPANS = 2048
"""Spans of one turn of the report, 0.25 s."""


class Records:
    """Counts requests, and formats their lines."""

    def __init__(
        self,
        cluster: str,
        log: RequestLog,
        random: Callable[[], float],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tally = RequestTally(cluster)
        self._log = log
        self._random = random
        self._now = now
        self._budget = LineBudget(log.rate_per_s, now())
        as_json = log.mode.is_json
        self._format = format_json if as_json else format_text
        self._format_connection = access_log.format_json if as_json else access_log.format_text
        self._lines: list[str] = []
        self._blocks: list[bytes] = []
        self._block_bytes = 0
        self._told_lost = 0
        self._opened: list[ConnectionOpened] = []
        self._ended: list[ConnectionEnded] = []
        self.taps = WorkerTaps()
        self._spans: list[Span] = []
        self._lost_spans = 0
        self._counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.lost_lines = 0

    def record(self, record: RequestRecord) -> None:
        """Take one request that ended."""
        self._tally.record(record)
        if record.audited:
            self.count(names.AUDITED.name, ("waypoint",))
        if record.dry_run:
            self.count(names.DRY_RUN.name, ("waypoint",))
        if self._wants_line(is_failure(record)):
            if self._budget.take():
                self.log(record)
            else:
                self.lost_lines += 1

    def _wants_line(self, failed: bool) -> bool:
        if self._log.mode is LogMode.OFF or failed:
            return failed and self._log.mode is not LogMode.OFF
        share = self._log.share
        return self._log.mode.has_all and (share >= 1.0 or self._random() < share)

    # --- what a lane observed -------------------------------------------------------------------

    def log(self, record: RequestRecord) -> None:
        """Write the line of a request that was counted already."""
        if len(self._lines) < MAX_PENDING_LINES:
            self._lines.append(self._format(record))
        else:
            self.lost_lines += 1

    def add_lines(self, text: bytes) -> None:
        """Take lines that were written already."""
        if len(text) + self._block_bytes > MAX_PENDING_BYTES:
            self.lost_lines += text.count(b"\n")
            return
        self._blocks.append(text)
        self._block_bytes += len(text)

    def show(self, record: RequestRecord, headers: Headers) -> None:
        """Show a request to those who watch."""
        self.taps.offer(record, headers)

    def lose(self, *, logged: int, tapped: int, traced: int) -> None:
        """Count what had no room."""
        self.lost_lines += logged
        self._lost_spans += traced
        self.taps.lose(tapped)

    def lend_lines(self, returned: int) -> int:
        """How many lines a lane may have until it is asked again."""
        return self._budget.lend(self._now(), returned)

    def span(self, trace: Trace, record: RequestRecord) -> None:
        """Take a request of a trace."""
        if len(self._spans) < MAX_PENDING_SPANS:
            self._spans.append(request_span(trace, record))
        else:
            self._lost_spans += 1

    def add(self, groups: Iterable[RequestGroup]) -> None:
        """Take requests that were added up already."""
        for group in groups:
            self._tally.add(group)

    def opened(self, origin: Origin, dst: Party) -> None:
        """Take a connection that is no HTTP and was accepted."""
        self._opened.append(
            ConnectionOpened(
                src=origin.src,
                dst=dst,
                service=origin.service.key if origin.service else "",
                mutual_tls=origin.principal is not None,
            )
        )

    def ended(self, record: ConnectionRecord) -> None:
        """Take the end of a connection that is no HTTP."""
        self._ended.append(
            ConnectionEnded(
                src=record.src,
                dst=record.dst,
                service=record.service,
                mutual_tls=record.mutual_tls,
                flag=record.flag,
                sent=record.bytes_sent,
                received=record.bytes_received,
                policy=record.policy,
                audited=bool(record.audited),
                dry_run=bool(record.dry_run),
            )
        )
        failed = bool(
            record.flag is not ResponseFlag.NONE
            or record.detail
            or record.audited
            or record.dry_run
        )
        if not self._wants_line(failed):
            return
        if len(self._lines) < MAX_PENDING_LINES and self._budget.take():
            self._lines.append(self._format_connection(record))
        else:
            self.lost_lines += 1

    def count(self, metric: str, labels: tuple[str, ...], events: int = 1) -> None:
        """Count events of a metric of `mesh.telemetry.names`."""
        self._counts[(metric, labels)] += events

    def take(self) -> list[ToSupervisor]:
        """Hand over what was collected."""
        lines, self._lines = self._lines, []
        block, self._blocks = b"".join(self._blocks).decode("ascii"), []
        self._block_bytes = 0
        missing = self.lost_lines - self._told_lost
        if missing:
            self._told_lost += missing
            lines.append(format_notice(missing, as_json=self._log.mode.is_json))
        series = self._tally.take()
        messages: list[ToSupervisor] = []
        if lines or block:
            messages.append(Lines(text=block + "".join(f"{line}\n" for line in lines)))
        if series:
            messages.append(Tally(series=series))
        if self._spans:
            messages.append(Spans(spans=self._spans, dropped=self._lost_spans))
            self._spans, self._lost_spans = [], 0
        if self._opened or self._ended:
            messages.append(Connections(opened=self._opened, ended=self._ended))
            self._opened, self._ended = [], []
        for tap, events, lost in self.taps.take():
            messages.append(Tapped(tap=tap, events=events, lost=lost))
        if self._counts:
            counts = [(name, labels, count) for (name, labels), count in self._counts.items()]
            messages.append(Counts(counts=counts))
            self._counts.clear()
        return messages
