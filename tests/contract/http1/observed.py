"""Who looks at the stage's requests: what a worker has for access log, taps and traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from mesh.http1.message import Headers
from mesh.model.request import RequestRecord
from mesh.model.span import Span
from mesh.telemetry.request_log import LogMode, RequestLog
from mesh.telemetry.trace_context import TraceStarter
from waypoint.feed import Lines, Spans, Tapped, ToSupervisor
from waypoint.lane.host import Lane
from waypoint.lane.record import Log, Watch
from waypoint.lane.recorder import Observation
from waypoint.telemetry.records import Records
from waypoint.telemetry.tap import TapEvent, TapFilter

_LOGS = {LogMode.OFF: Log.NONE, LogMode.TEXT: Log.ALL, LogMode.JSON: Log.ALL}


@dataclass(slots=True, kw_only=True)
class Observed:
    """Made for one stage.

    Attributes:
        sampling: of new traces; None with `exports` unset: nobody follows traces.
    """

    log: RequestLog = field(default_factory=lambda: RequestLog(mode=LogMode.OFF))
    sampling: float | None = None
    exports: bool = False
    taps: Sequence[TapFilter] = ()
    records: Records = field(init=False)
    traces: TraceStarter | None = field(init=False)
    lane: Lane | None = field(init=False, default=None)
    _messages: list[ToSupervisor] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.records = Records("test", self.log, Random(3).random)
        self.records.taps.replace(self.taps)
        follows = self.exports or self.sampling is not None
        starter = TraceStarter(self.sampling, exports=self.exports, random=Random(4))
        self.traces = starter if follows else None

    @property
    def observation(self) -> Observation:
        watch = Watch(
            log=_LOGS.get(self.log.mode, Log.ERRORS),
            log_share=self.log.share,
            log_json=self.log.mode.is_json,
            traces=self.traces is not None,
            sampling=self.sampling,
            exports=self.exports,
        )
        return Observation(watch=watch, sink=self.records, traces=self.traces)

    def attach(self, lane: Lane) -> None:
        """Begin to watch a lane."""
        self.lane = lane
        lane.tap(self.taps)
        lane.allow_lines(self.records.lend_lines(0))

    def recorded_by(self, records: list[RequestRecord]) -> Callable[[RequestRecord], None]:
        """What a proxy is to call."""

        def record(item: RequestRecord) -> None:
            records.append(item)
            self.records.record(item)

        return record

    def shown_to(self) -> Callable[[RequestRecord, Headers], None] | None:
        return self.records.taps.offer if self.taps else None

    def _take(self) -> list[ToSupervisor]:
        if self.lane is not None:
            self.lane.read_records()
        self._messages += self.records.take()
        return self._messages

    def lines(self) -> list[str]:
        """Lines of the log so far."""
        texts = [message.text for message in self._take() if isinstance(message, Lines)]
        return "".join(texts).splitlines()

    def spans(self) -> list[Span]:
        return [s for message in self._take() if isinstance(message, Spans) for s in message.spans]

    def events(self) -> list[TapEvent]:
        """What the taps caught so far."""
        return [
            e for message in self._take() if isinstance(message, Tapped) for e in message.events
        ]
