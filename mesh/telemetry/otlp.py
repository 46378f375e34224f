"""Export of spans by OTLP over HTTP or gRPC, off the event loop.

Spans wait in a bounded queue for a thread of their own, which sends them in batches through
OpenTelemetry's exporter; that one retries what may be retried and reads the usual environment
(`OTEL_EXPORTER_OTLP_HEADERS`, `_TIMEOUT`, `_COMPRESSION`, `_CERTIFICATE`). What does not fit or
cannot be delivered is counted, and never waited for.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from mesh.errors import ConfigError
from mesh.model import span as model
from mesh.telemetry.trace_settings import GRPC_SCHEMES

log = logging.getLogger(__name__)

QUEUE_SPANS = 8192
BATCH_SPANS = 512
"""The SDK's own batch."""
BATCH_S = 1.0
_KINDS = {model.SpanKind.SERVER: SpanKind.SERVER, model.SpanKind.CLIENT: SpanKind.CLIENT}


class Exporter(Protocol):
    """What sends a batch (`opentelemetry.sdk.trace.export.SpanExporter`)."""

    def export(self, spans: Sequence[ReadableSpan], /) -> SpanExportResult: ...
    def shutdown(self) -> None: ...


class SpanExport:
    """The queue and its thread. Whoever makes it closes it.

    Args:
        resource: attributes of the process (`service.name`).
    """

    def __init__(
        self,
        exporter: Exporter,
        resource: Mapping[str, str],
        *,
        queue_spans: int = QUEUE_SPANS,
        batch_s: float = BATCH_S,
    ) -> None:
        self._exporter = exporter
        self._resource = Resource.create(dict(resource))
        self._scope = InstrumentationScope("meshnode")
        self._batch_s = batch_s
        self._queue: queue.Queue[model.Span | None] = queue.Queue(queue_spans)
        self._exported = self._failed = self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> model.SpanCounts:
        return model.SpanCounts(exported=self._exported, failed=self._failed, dropped=self._dropped)

    def offer(self, span: model.Span) -> None:
        """Take a span, or count it as dropped. Never waits."""
        try:
            self._queue.put_nowait(span)
        except queue.Full:
            self._dropped += 1

    def add_dropped(self, count: int) -> None:
        """Note spans that were lost on their way here."""
        self._dropped += count

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is queued, for at most `timeout_s`. Idempotent."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            log.warning("the collector does not answer: %d spans are lost", self._queue.qsize())
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._exporter.shutdown()  # interrupts its waiting
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                break
            batch, ended = self._batch(first)
            self._send(batch)
            if ended:
                break
        self._exporter.shutdown()

    def _batch(self, first: model.Span) -> tuple[list[model.Span], bool]:
        """Collect for a while; say whether the end was told."""
        batch = [first]
        due = time.monotonic() + self._batch_s
        while len(batch) < BATCH_SPANS:
            try:
                item = self._queue.get(timeout=max(0.0, due - time.monotonic()))
            except queue.Empty:
                return batch, False
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False

    def _send(self, batch: Sequence[model.Span]) -> None:
        readable = []
        for span in batch:
            try:
                readable.append(self._readable(span))
            except ValueError:  # of a worker that is not itself any more
                self._failed += 1
        if not readable:
            return
        if self._exporter.export(readable) is SpanExportResult.SUCCESS:
            self._exported += len(readable)
        else:
            self._failed += len(readable)

    def _readable(self, span: model.Span) -> ReadableSpan:
        trace_id = int(span.trace_id, 16)
        state = TraceState.from_header([span.state]) if span.state else None
        flags = TraceFlags(TraceFlags.SAMPLED)
        parent = None
        if span.parent_id:
            parent_id = int(span.parent_id, 16)
            parent = SpanContext(trace_id, parent_id, is_remote=True, trace_flags=flags)
        return ReadableSpan(
            name=span.name,
            context=SpanContext(
                trace_id,
                int(span.span_id, 16),
                is_remote=False,
                trace_flags=flags,
                trace_state=state,
            ),
            parent=parent,
            resource=self._resource,
            attributes=dict(span.attributes),
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


def open_export(
    endpoint: str, resource: Mapping[str, str], ca_file: Path | None = None
) -> SpanExport:
    """Start exporting to a collector, whose address is that of `parse_endpoint`.

    `ca_file` holds the authorities that may have signed its certificate, instead of the system's.
    Raises `ConfigError` where that cannot be read, or the part for gRPC is not installed.
    """
    scheme, _, address = endpoint.partition("://")
    roots = None if ca_file is None else _read(ca_file)
    if scheme in GRPC_SCHEMES:
        return SpanExport(_grpc_exporter(address, roots, insecure=scheme == "grpc"), resource)
    if ca_file is None:
        return SpanExport(OTLPSpanExporter(endpoint=endpoint), resource)
    session = requests.Session()
    # REQUESTS_CA_BUNDLE would come before what we are told; the environment's proxies count.
    session.trust_env = False
    session.proxies.update(requests.utils.get_environ_proxies(endpoint))
    exporter = OTLPSpanExporter(endpoint=endpoint, certificate_file=str(ca_file), session=session)
    return SpanExport(exporter, resource)


def _read(ca_file: Path) -> bytes:
    try:
        return ca_file.read_bytes()
    except OSError as error:
        raise ConfigError(f"--otlp-ca {ca_file}: {error.strerror}") from error


def _grpc_exporter(address: str, roots: bytes | None, *, insecure: bool) -> Exporter:
    try:
        from grpc import ssl_channel_credentials

        # 20 MB on disk, and a core of its own in C: only for who wants it.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
            OTLPSpanExporter as GrpcExporter,
        )
    except ImportError as error:
        message = "OTLP over gRPC is not installed: pip install 'meshnode[otlp-grpc]', or http://"
        raise ConfigError(f"--otlp-endpoint: {message}") from error
    credentials = None if roots is None or insecure else ssl_channel_credentials(roots)
    return GrpcExporter(endpoint=address, insecure=insecure, credentials=credentials)
