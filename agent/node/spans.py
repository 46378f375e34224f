"""Spans of connections, for a collector: a sample of what `meshnode tap` sees."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Protocol

from mesh.model.connection import ConnectionRecord
from mesh.model.span import Span
from mesh.telemetry.connection_span import connection_span
from mesh.telemetry.tap import Tap

log = logging.getLogger(__name__)
QUEUE_RECORDS = 4000


class SpanSink(Protocol):
    """Where spans go (`mesh.telemetry.otlp`)."""

    def offer(self, span: Span) -> None: ...
    def add_dropped(self, count: int) -> None: ...


async def open_sink(
    endpoint: str, ca_file: Path | None, node: str, stack: AsyncExitStack
) -> SpanSink:
    """Start exporting; the stack ends it."""
    # OpenTelemetry's SDK costs 30 MiB and a third of a second: only for who wants spans.
    from mesh.telemetry.otlp import open_export

    export = open_export(
        endpoint,
        {
            "service.name": "ztunnel",
            "service.namespace": "meshnode",
            "service.instance.id": node,
            "meshnode.component": "ztunnel",
        },
        ca_file,
    )
    stack.push_async_callback(asyncio.to_thread, export.close)
    return export


async def export_connections(
    tap: Tap[ConnectionRecord], sink: SpanSink, sampling: float, random: Random
) -> None:
    """Make a span of each connection that is sampled, until cancelled."""

    def sampled(_: ConnectionRecord) -> bool:
        return random.random() < sampling

    with tap.watch(sampled, QUEUE_RECORDS) as watcher:
        if watcher is None:
            log.error("no spans: too many taps are open")
            return
        while True:
            sink.offer(connection_span(await watcher.next(), random))
            lost = watcher.take_lost() + sum(watcher.take_omitted().values())
            if lost:
                sink.add_dropped(lost)
