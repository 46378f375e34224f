"""The record of one connection: the only thing access log, metrics and `tap` are fed from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mesh.model.address import SocketAddress


class Reporter(StrEnum):
    """Which side observed the connection."""

    SOURCE = "source"
    DESTINATION = "destination"
    WAYPOINT = "waypoint"


class Path(StrEnum):
    """How the bytes travelled."""

    DIRECT = "direct"
    """Inside one node, decided by the kernel at connect()."""
    HBONE = "hbone"
    PASSTHROUGH = "passthrough"
    """Relayed or left alone as plain TCP."""


class ResponseFlag(StrEnum):
    """Short code that says why a connection ended; `-` = normally (ztunnel's codes first)."""

    NONE = "-"
    DENY = "DENY"
    CONNECT = "CONNECT"
    TLS_FAILURE = "TLS_FAILURE"
    H2_HANDSHAKE_FAILURE = "H2_HANDSHAKE_FAILURE"
    IDENTITY_ERROR = "IDENTITY_ERROR"
    NO_HEALTHY_UPSTREAM = "UH"
    UPSTREAM_RESET = "UR"
    DOWNSTREAM_CLOSED = "DC"
    POLICY_CHANGE = "POLICY_CHANGE"
    DRAIN = "DRAIN"
    UPSTREAM_OVERFLOW = "UO"
    STREAM_IDLE = "SI"
    DURATION_TIMEOUT = "DT"
    RATE_LIMITED = "RL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One end of a connection, as far as it is known; empty strings are shown as `unknown`."""

    workload: str = ""
    """uid of the workload."""
    name: str = ""
    namespace: str = ""
    app_name: str = ""
    identity: str = ""
    """Principal without `spiffe://`."""
    canonical_service: str = ""
    canonical_revision: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRecord:
    """One finished, failed or refused connection.

    Attributes:
        opened_at: wall clock, seconds since the epoch.
        duration_s: seconds from accept (or connect()) to the end.
        bytes_sent: from source to destination; bytes_received: the other way.
        service: `<namespace>/<name>` the client addressed, or empty.
        hbone_addr: address of the tunnel peer, where there is one.
        policy: text of the rule that decided, where one did.
        detail: human text of the failure, empty if none.
    """

    reporter: Reporter
    path: Path
    flag: ResponseFlag
    src: Party
    dst: Party
    src_addr: SocketAddress
    dst_addr: SocketAddress
    opened_at: float
    duration_s: float
    bytes_sent: int
    bytes_received: int
    service: str = ""
    hbone_addr: SocketAddress | None = None
    mutual_tls: bool = False
    policy: str = ""
    detail: str = ""
    dry_run: tuple[str, ...] = ()
    audited: tuple[str, ...] = ()
