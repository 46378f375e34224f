"""Connections that become spans."""

from __future__ import annotations

import asyncio
from random import Random

from agent.node.spans import export_connections
from mesh.model.connection import ConnectionRecord
from mesh.model.span import Span, SpanKind
from mesh.telemetry.connection_span import connection_span
from mesh.telemetry.tap import Tap
from tests.unit.mesh.telemetry.records import BASE, denied


class Sink:
    """Keeps spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.dropped = 0

    def offer(self, span: Span) -> None:
        self.spans.append(span)

    def add_dropped(self, count: int) -> None:
        self.dropped += count


def test_a_connection_is_described() -> None:
    span = connection_span(BASE, Random(1))
    found = dict(span.attributes)
    assert span.kind is SpanKind.CLIENT
    assert span.name == f"TCP {BASE.service}"
    assert found["network.transport"] == "tcp"
    assert found["meshnode.source.workload"] == BASE.src.name
    assert not span.error
    assert span.end_ns > span.start_ns
    refused = connection_span(denied(), Random(1))
    assert refused.error == "denied"
    assert refused.kind is SpanKind.SERVER
    assert dict(refused.attributes)["error.type"] == "DENY"


def test_a_share_is_exported() -> None:
    async def main() -> None:
        tap: Tap[ConnectionRecord] = Tap()
        sink = Sink()
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(export_connections(tap, sink, 0.5, Random(1)))
            async with asyncio.timeout(10):
                while not tap.watched:  # noqa: ASYNC110 - a tap has no event for that
                    await asyncio.sleep(0)
            for _ in range(1000):
                tap.publish(BASE)
            async with asyncio.timeout(10):
                while len(sink.spans) < 400:  # noqa: ASYNC110 - a list has no event
                    await asyncio.sleep(0)
            task.cancel()
        assert 400 <= len(sink.spans) <= 600
        assert len({span.trace_id for span in sink.spans}) == len(sink.spans)
        assert not tap.watched

    asyncio.run(main())
