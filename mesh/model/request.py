"""The record of one request: what access log, metrics and `tap` of a waypoint are fed from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mesh.model.address import SocketAddress
from mesh.model.connection import Party


class RequestFlag(StrEnum):
    """Why a request did not end normally; Envoy's response flags."""

    NONE = "-"
    NO_HEALTHY_UPSTREAM = "UH"
    UPSTREAM_FAILURE = "UF"
    UPSTREAM_OVERFLOW = "UO"
    NO_ROUTE = "NR"
    RETRY_LIMIT = "URX"
    UPSTREAM_TIMEOUT = "UT"
    UPSTREAM_CLOSED = "UC"
    UPSTREAM_PROTOCOL_ERROR = "UPE"
    DOWNSTREAM_CLOSED = "DC"
    DOWNSTREAM_PROTOCOL_ERROR = "DPE"
    STREAM_IDLE = "SI"
    DENIED = "UAEX"
    RATE_LIMITED = "RL"
    DELAY_INJECTED = "DI"
    FAULT_INJECTED = "FI"
    OVERLOADED = "OM"
    NO_CLUSTER = "NC"
    DURATION_TIMEOUT = "DT"
    POLICY_CHANGE = "POLICY_CHANGE"
    """Allowed when it began, and not any more (connections have the same flag)."""
    TOKEN_EXPIRED = "TOKEN_EXPIRED"


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request that ended.

    Attributes:
        started_at: wall clock, seconds since the epoch.
        service: `<namespace>/<name>` that the client addressed, or empty.
        protocol: `HTTP/1.1` or `HTTP/2`, as the client spoke.
        status: answered to the client; 0 if nothing was.
        grpc_status: of a gRPC call; -1 for anything else.
        details: machine-readable cause (`via_upstream`, `route_not_found`).
        policy: the rule that refused, empty if none did; audited: AUDIT rules that matched;
            dry_run: dry-run policies that would have denied.
        upstream_s: until the response's head came, None without one.
    """

    src: Party
    dst: Party
    service: str
    protocol: str
    method: str
    path: str
    authority: str
    status: int
    grpc_status: int
    flag: RequestFlag
    details: str
    bytes_received: int
    bytes_sent: int
    started_at: float
    duration_s: float
    upstream_s: float | None
    upstream_addr: SocketAddress | None
    client_addr: SocketAddress
    dialled_addr: SocketAddress
    route: str
    request_id: str
    user_agent: str
    forwarded_for: str
    tries: int
    mutual_tls: bool
    policy: str = ""
    audited: tuple[str, ...] = ()
    dry_run: tuple[str, ...] = ()
