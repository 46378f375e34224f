"""Where connections are counted, logged and shown, whoever saw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agent.feed.records import Tally, from_wire
from mesh.model.connection import ConnectionRecord, Path, Reporter
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.metrics import MeshMetrics
from mesh.telemetry.tap import Tap


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
            self.metrics.tally(
                from_wire(tally.record),
                opened=tally.opened,
                ended=tally.ended,
                sent=tally.sent,
                received=tally.received,
            )
            if tally.untold:
                self.access_log.skip(tally.untold)

    def direct(self, record: ConnectionRecord) -> None:
        """A connection of which only the kernel knew; it was opened and ended."""
        self.metrics.record(record, also_opened=True)
        self.show(record)
        if record.path is Path.DIRECT:
            # The kernel watched both ends: the destination's share of the metrics is known.
            reported = replace(record, reporter=Reporter.DESTINATION)
            self.metrics.record(reported, also_opened=True)

    def show(self, record: ConnectionRecord) -> None:
        """Log it, and publish it to whoever watches."""
        self.access_log.record(record)
        self.tap.publish(record)
