"""Connection records on the wire: addresses as text, everything else as it is."""

from __future__ import annotations

import msgspec

from mesh.model.address import SocketAddress, parse_socket_address
from mesh.model.connection import ConnectionRecord, Party, Path, Reporter, ResponseFlag


class WireRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """`ConnectionRecord`, field by field."""

    reporter: Reporter
    path: Path
    flag: ResponseFlag
    src: Party
    dst: Party
    src_addr: str
    dst_addr: str
    opened_at: float
    duration_s: float
    bytes_sent: int
    bytes_received: int
    service: str
    hbone_addr: str | None
    mutual_tls: bool
    policy: str
    detail: str
    dry_run: tuple[str, ...]
    audited: tuple[str, ...]


class Tally(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What connections that are all alike added since the last tally.

    Attributes:
        record: what they have in common.
        ended: how many, by the flag that says why.
        sent: bytes from source to destination, those of open connections included.
        untold: of the ended ones, those that no record tells of.
    """

    record: WireRecord
    opened: int
    ended: dict[ResponseFlag, int]
    sent: int
    received: int
    untold: int


def to_wire(record: ConnectionRecord) -> WireRecord:
    """Encode a record's addresses."""
    return WireRecord(
        reporter=record.reporter,
        path=record.path,
        flag=record.flag,
        src=record.src,
        dst=record.dst,
        src_addr=str(record.src_addr),
        dst_addr=str(record.dst_addr),
        opened_at=record.opened_at,
        duration_s=record.duration_s,
        bytes_sent=record.bytes_sent,
        bytes_received=record.bytes_received,
        service=record.service,
        hbone_addr=None if record.hbone_addr is None else str(record.hbone_addr),
        mutual_tls=record.mutual_tls,
        policy=record.policy,
        detail=record.detail,
        dry_run=record.dry_run,
        audited=record.audited,
    )


def _address(text: str) -> SocketAddress:
    # A source port of 0 (unknown: the far side of a tunnel) is legal here and only here.
    host, _, port = text.rpartition(":")
    if port == "0":
        return SocketAddress(parse_socket_address(f"{host}:1").ip, 0)
    return parse_socket_address(text)


def from_wire(wire: WireRecord) -> ConnectionRecord:
    """Decode; raises `ConfigError` if an address is not one."""
    return ConnectionRecord(
        reporter=wire.reporter,
        path=wire.path,
        flag=wire.flag,
        src=wire.src,
        dst=wire.dst,
        src_addr=_address(wire.src_addr),
        dst_addr=_address(wire.dst_addr),
        opened_at=wire.opened_at,
        duration_s=wire.duration_s,
        bytes_sent=wire.bytes_sent,
        bytes_received=wire.bytes_received,
        service=wire.service,
        hbone_addr=None if wire.hbone_addr is None else _address(wire.hbone_addr),
        mutual_tls=wire.mutual_tls,
        policy=wire.policy,
        detail=wire.detail,
        dry_run=wire.dry_run,
        audited=wire.audited,
    )
