"""Counters and events of the kernel programs as typed values."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from operator import sub

from agent.capture.pins import PinnedMaps
from agent.capture.table import Table
from bpf.layout import Addr, Counted, Event, EventKind, PathKind, Reason, Stats, StatsKey
from mesh.model.address import IPAddress, SocketAddress


@dataclass(frozen=True, slots=True)
class TrafficKey:
    """Whose traffic: workload numbers (0 = not in the mesh), port, and how it travelled; `vip`:
    the address that was dialled, where it was a service's."""

    src_workload: int
    dst_workload: int
    port: int
    path: PathKind
    vip: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """Connections and payload bytes; `bytes_sent` from source to destination.

    `rtt_us_sum / rtt_samples` is the mean smoothed round-trip time at the end of connections;
    `untold` closed ones were counted only.
    """

    opened: int = 0
    closed: int = 0
    failed: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    retransmits: int = 0
    rtt_us_sum: int = 0
    rtt_samples: int = 0
    untold: int = 0

    def minus(self, earlier: Traffic) -> Traffic:
        return Traffic(*map(sub, self._values(), earlier._values()))

    def _values(self) -> Iterator[int]:
        return (getattr(self, field.name) for field in fields(self))


class TrafficReader:
    """Differences of the traffic counters between calls."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._last: dict[TrafficKey, Traffic] = {}

    def read(self) -> dict[TrafficKey, Traffic]:
        """What was added since the last call (the first call: since the entries were made)."""
        now = dict(read_traffic(self._table))
        deltas = {key: self._difference(key, total) for key, total in now.items()}
        self._last = now
        return {key: change for key, change in deltas.items() if change != Traffic()}

    def read_some(self, keys: Iterable[TrafficKey]) -> dict[TrafficKey, Traffic]:
        """The same of these entries only."""
        deltas: dict[TrafficKey, Traffic] = {}
        for key in keys:
            raw = self._table.lookup(encode_traffic_key(key))
            if raw is None:
                continue
            total = sum_stats(raw)
            change = self._difference(key, total)
            self._last[key] = total
            if change != Traffic():
                deltas[key] = change
        return deltas

    def _difference(self, key: TrafficKey, total: Traffic) -> Traffic:
        before = self._last.get(key, Traffic())
        # Smaller than before: the entry was forgotten and made anew.
        return total.minus(before) if total.opened >= before.opened else total

    def forget(self, keys: Iterable[TrafficKey]) -> None:
        """Remove entries, so that the map does not fill with idle ones."""
        for key in keys:
            self._table.delete(encode_traffic_key(key))
            self._last.pop(key, None)


def encode_traffic_key(key: TrafficKey) -> bytes:
    vip = Addr() if key.vip is None else Addr.of(key.vip)
    return bytes(StatsKey(key.src_workload, key.dst_workload, vip, key.port, key.path))


def read_traffic(table: Table) -> Iterator[tuple[TrafficKey, Traffic]]:
    """Totals over all processors."""
    for raw_key, raw in table.items():
        key = StatsKey.from_buffer_copy(raw_key)
        vip = key.vip.ip if any(bytes(key.vip)) else None
        yield (
            TrafficKey(key.src_workload, key.dst_workload, key.port, PathKind(key.path), vip),
            sum_stats(raw),
        )


def sum_stats(raw: bytes) -> Traffic:
    """Add up the values of all processors."""
    width = len(bytes(Stats()))
    per_cpu = [Stats.from_buffer_copy(raw, at) for at in range(0, len(raw), width)]
    return Traffic(
        *(sum(getattr(stats, field.name) for stats in per_cpu) for field in fields(Traffic))
    )


def read_reasons(maps: PinnedMaps) -> dict[Reason, int]:
    """How often the hooks ended with each reason, since the maps were made."""
    table = maps["mn_reason"]
    counts: dict[Reason, int] = {}
    for reason in Reason:
        raw = table.lookup(struct.pack("=I", reason))
        counts[reason] = sum(memoryview(raw).cast("Q")) if raw else 0
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class DeniedConnect:
    """A connect() that was refused.

    `dialled` is what the application asked for, `dst` the backend that was chosen for it;
    `policy_reason` indexes `KernelPolicy.reasons` and means something for DENY_POLICY only.
    """

    time_ns: int
    netns_cookie: int
    src_workload: int
    dst_workload: int
    dialled: SocketAddress
    dst: SocketAddress
    reason: Reason
    policy_reason: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedConnection:
    """A direct or passthrough connection that ended; not `established` = it never came up.

    `counted`: what of it the traffic counters have.
    """

    time_ns: int
    netns_cookie: int
    src_workload: int
    dst_workload: int
    src: SocketAddress
    dst: SocketAddress
    dialled: SocketAddress
    path: PathKind
    established: bool
    duration_s: float
    bytes_sent: int
    bytes_received: int
    counted: Counted

    @property
    def traffic_key(self) -> TrafficKey:
        vip = self.dialled.ip if self.dialled.ip != self.dst.ip else None
        return TrafficKey(self.src_workload, self.dst_workload, self.dst.port, self.path, vip)


KernelEvent = DeniedConnect | ClosedConnection


def decode_event(raw: bytes) -> KernelEvent:
    """One ring record; times are CLOCK_MONOTONIC."""
    event = Event.from_buffer_copy(raw)
    dialled = SocketAddress(event.orig.ip, event.orig_port)
    dst = SocketAddress(event.tuple.dst.ip, event.tuple.dst_port)
    if EventKind(event.kind) is EventKind.DENIED:
        return DeniedConnect(
            time_ns=event.time_ns,
            netns_cookie=event.netns_cookie,
            src_workload=event.src_workload,
            dst_workload=event.dst_workload,
            dialled=dialled,
            dst=dst,
            reason=Reason(event.reason),
            policy_reason=event.policy_reason,
        )
    return ClosedConnection(
        time_ns=event.time_ns,
        netns_cookie=event.netns_cookie,
        src_workload=event.src_workload,
        dst_workload=event.dst_workload,
        src=SocketAddress(event.tuple.src.ip, event.tuple.src_port),
        dst=dst,
        dialled=dialled,
        path=PathKind(event.path),
        established=bool(event.established),
        duration_s=event.duration_ns / 1e9,
        bytes_sent=event.bytes_sent,
        bytes_received=event.bytes_received,
        counted=Counted(event.counted),
    )
