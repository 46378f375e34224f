"""The span of a connection, from its record. Pure.

Bytes of a connection carry no context that a node could read, so that each span is a trace of its
own; what joins both reports of one connection are its addresses.
"""

from __future__ import annotations

from random import Random

from mesh.model.connection import ConnectionRecord, Party, Reporter, ResponseFlag
from mesh.model.span import Span, SpanKind, SpanValue

_GOOD = frozenset((ResponseFlag.NONE, ResponseFlag.DOWNSTREAM_CLOSED, ResponseFlag.DRAIN))


def connection_span(record: ConnectionRecord, random: Random) -> Span:
    """Describe a connection that ended; the name has no more values than there are services."""
    start_ns = int(record.opened_at * 1e9)
    attributes: dict[str, SpanValue] = {
        "network.transport": "tcp",
        "network.peer.address": str(record.src_addr.ip),
        "network.peer.port": record.src_addr.port,
        "server.address": str(record.dst_addr.ip),
        "server.port": record.dst_addr.port,
        "meshnode.reporter": str(record.reporter),
        "meshnode.path": str(record.path),
        "meshnode.response_flags": str(record.flag),
        "meshnode.mutual_tls": record.mutual_tls,
        "meshnode.bytes_sent": record.bytes_sent,
        "meshnode.bytes_received": record.bytes_received,
    }
    texts = {
        "meshnode.service": record.service,
        "meshnode.policy": record.policy,
        **_party("source", record.src),
        **_party("destination", record.dst),
    }
    attributes |= {name: text for name, text in texts.items() if text}
    failed = record.flag not in _GOOD
    if failed:
        attributes["error.type"] = str(record.flag)
    return Span(
        trace_id=f"{random.getrandbits(128) or 1:032x}",
        span_id=f"{random.getrandbits(64) or 1:016x}",
        parent_id="",
        state="",
        name=f"TCP {record.service}" if record.service else "TCP",
        kind=SpanKind.CLIENT if record.reporter is Reporter.SOURCE else SpanKind.SERVER,
        start_ns=start_ns,
        end_ns=start_ns + int(record.duration_s * 1e9),
        attributes=tuple(attributes.items()),
        error=record.detail or str(record.flag) if failed else "",
    )


def _party(side: str, party: Party) -> dict[str, str]:
    return {
        f"meshnode.{side}.workload": party.name,
        f"meshnode.{side}.namespace": party.namespace,
        f"meshnode.{side}.principal": f"spiffe://{party.identity}" if party.identity else "",
    }
