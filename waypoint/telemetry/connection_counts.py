"""From what workers say of connections to the metrics of them."""

from __future__ import annotations

from mesh.model.address import SocketAddress, parse_ip
from mesh.model.connection import ConnectionRecord, Path, Reporter
from mesh.telemetry.metrics import MeshMetrics, OpenedConnection
from waypoint.feed import ConnectionEnded, Connections

# Metrics have no addresses.
_NOWHERE = SocketAddress(parse_ip("0.0.0.0"), 0)


def count_connections(metrics: MeshMetrics, message: Connections) -> None:
    """Count what a worker saw open and end."""
    for opened in message.opened:
        metrics.opened(
            OpenedConnection(
                reporter=Reporter.WAYPOINT,
                path=Path.HBONE,
                src=opened.src,
                dst=opened.dst,
                service=opened.service,
                mutual_tls=opened.mutual_tls,
            )
        )
    for ended in message.ended:
        metrics.record(_record(ended))


def _record(ended: ConnectionEnded) -> ConnectionRecord:
    return ConnectionRecord(
        reporter=Reporter.WAYPOINT,
        path=Path.HBONE,
        flag=ended.flag,
        src=ended.src,
        dst=ended.dst,
        src_addr=_NOWHERE,
        dst_addr=_NOWHERE,
        opened_at=0.0,
        duration_s=0.0,
        bytes_sent=ended.sent,
        bytes_received=ended.received,
        service=ended.service,
        mutual_tls=ended.mutual_tls,
        policy=ended.policy,
        dry_run=("",) if ended.dry_run else (),
        audited=("",) if ended.audited else (),
    )
