"""Where connections are counted, logged and shown, whoever saw them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from agent.feed.records import Tally, from_wire
from agent.node.direct import DirectTally
from bpf.layout import Counted
from mesh.model.connection import ConnectionRecord, Path, Reporter, ResponseFlag
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.metrics import MeshMetrics
from mesh.telemetry.tap import Tap
from mesh.telemetry.window_feed import party_name


@dataclass(frozen=True, slots=True)
class Records:
    """Metrics, access log and taps of one node."""

    metrics: MeshMetrics
    access_log: AccessLog
    tap: Tap[ConnectionRecord] = field(default_factory=Tap)
    """For `meshnode tap`."""

    def opened(self, records: Sequence[ConnectionRecord]) -> None:
        """Connections that a worker began to carry."""
        for record in records:
            self.metrics.opened(record)

    def closed(self, records: Sequence[ConnectionRecord]) -> None:
        """Connections of a worker that ended, each once."""
        for record in records:
            self.metrics.record(record)
            self.show(record)

    def tallies(self, tallies: Sequence[Tally]) -> None:
        """Connections of a worker that it counts; some of them are told of as well. Raises
        `ConfigError` if one makes no sense."""
        for tally in tallies:
            record = from_wire(tally.record)
            self.metrics.tally(
                record,
                opened=tally.opened,
                ended=tally.ended,
                sent=tally.sent,
                received=tally.received,
            )
            if tally.untold:
                self._untold(record, tally.untold)

    def direct(self, record: ConnectionRecord, counted: Counted) -> None:
        """A connection of which only the kernel knew, at its end; `counted`: what of it comes with
        a tally."""
        self.show(record)
        if Counted.CLOSE in counted:
            return
        for reported in _reported(record):
            self.metrics.record(reported, also_opened=Counted.OPEN not in counted)

    def direct_tally(self, tally: DirectTally) -> None:
        """Connections that the kernel counted; some of them are told of as well."""
        traffic = tally.traffic
        for reported in _reported(tally.record):
            self.metrics.tally(
                reported,
                opened=traffic.opened,
                ended={ResponseFlag.NONE: traffic.closed} if traffic.closed else {},
                sent=traffic.bytes_sent,
                received=traffic.bytes_received,
            )
        if traffic.untold:
            self._untold(tally.record, traffic.untold)

    def _untold(self, common: ConnectionRecord, count: int) -> None:
        """Connections like this one that are only numbers."""
        self.access_log.skip(count)
        if self.tap.watched:
            self.tap.omit(common, _kind(common), count)

    def show(self, record: ConnectionRecord) -> None:
        """Log it, and publish it to whoever watches."""
        self.access_log.record(record)
        self.tap.publish(record)


def _kind(record: ConnectionRecord) -> str:
    src, dst = party_name(record.src), record.service or party_name(record.dst)
    return f"{src or 'unknown'} > {dst or 'unknown'}  {record.path}"


def _reported(record: ConnectionRecord) -> Iterator[ConnectionRecord]:
    yield record
    if record.path is Path.DIRECT:
        # The kernel watched both ends: the destination's share of the metrics is known.
        yield replace(record, reporter=Reporter.DESTINATION)
