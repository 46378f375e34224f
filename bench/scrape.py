"""What a scrape of the metrics costs: `python -m bench.scrape`.

Connections between as many pairs of applications as the registry keeps label sets for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest

from mesh.model.address import parse_socket_address
from mesh.model.connection import ConnectionRecord, Party, Path, Reporter, ResponseFlag
from mesh.telemetry.metrics import MAX_SERIES, MeshMetrics

RECORDS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeTimes:
    """Milliseconds and bytes of a scrape, microseconds to count one connection."""

    scrape_ms: float
    text_bytes: int
    record_us: float


def measure(series: int = MAX_SERIES) -> ScrapeTimes:
    """Fill a registry with `series` label sets and scrape it."""
    registry = CollectorRegistry()
    metrics = MeshMetrics(registry, now=time.monotonic)
    records = [_record(number) for number in range(series)]
    for record in records:
        metrics.record(record, also_opened=True)
    begin = time.perf_counter()
    for number in range(RECORDS):
        metrics.record(records[number % series], also_opened=True)
    record_us = (time.perf_counter() - begin) / RECORDS * 1e6
    begin = time.perf_counter()
    text = generate_latest(registry)
    scrape_ms = (time.perf_counter() - begin) * 1e3
    return ScrapeTimes(scrape_ms=scrape_ms, text_bytes=len(text), record_us=record_us)


def _record(number: int) -> ConnectionRecord:
    return ConnectionRecord(
        reporter=Reporter.SOURCE,
        path=Path.HBONE,
        flag=ResponseFlag.NONE,
        src=_party("shop", f"cart-{number % 100}"),
        dst=_party("bank", f"pay-{number // 100}"),
        src_addr=parse_socket_address("10.0.0.1:40000"),
        dst_addr=parse_socket_address("10.0.0.2:8080"),
        opened_at=1_700_000_000.0,
        duration_s=0.25,
        bytes_sent=100,
        bytes_received=2000,
        service="bank/pay",
        mutual_tls=True,
    )


def _party(namespace: str, app: str) -> Party:
    return Party(
        workload=f"pod/{namespace}/{app}",
        name=app,
        namespace=namespace,
        app_name=app,
        identity=f"cluster.local/ns/{namespace}/sa/{app}",
        canonical_service=app,
        canonical_revision="v1",
    )


if __name__ == "__main__":
    found = measure()
    print(
        f"{MAX_SERIES} label sets: {found.scrape_ms:.0f} ms and {found.text_bytes >> 10} KiB a "
        f"scrape, {found.record_us:.1f} us to count a connection"
    )
