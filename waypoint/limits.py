"""Bounds on everything a peer can make us hold or wait for."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.http1.message import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyLimits:
    """Numbers of one worker; times in seconds.

    Attributes:
        header_timeout_s: from a request's first byte to the end of its head.
        body_timeout_s: without a byte of a request body that is still to come.
        downstream_idle_s: a client's connection between requests.
        upstream_idle_s: ours to a server; shorter than any common server's own (Node.js: 5 s),
            so that the server does not close it just as we use it.
        connect_timeout_s: for TCP, TLS and the tunnel's answer together.
        replay_bytes: of a request body kept for another try.
        high_water_bytes: queued towards a peer before its source is stopped.
        upstream_requests: at once to one endpoint (Envoy's circuit breaker has 1024).
        worker_requests: at once in one worker; the second half of them is shared out fairly among
            callers (`waypoint.resilience.fair`).
        mirror_copies: under way at once; more are left out.
        write_timeout_s: without a byte that a client takes of what is queued for it.
        linger_s: reading on after an early answer, so that the client sees it before a reset.
        sniff_timeout_s: for a client's first bytes where the port names no protocol.
    """

    message: Limits = field(default_factory=Limits)
    header_timeout_s: float = 60.0
    body_timeout_s: float = 300.0
    downstream_idle_s: float = 3600.0
    upstream_idle_s: float = 4.0
    connect_timeout_s: float = 10.0
    replay_bytes: int = 64 * 1024
    high_water_bytes: int = 256 * 1024
    upstream_requests: int = 1024
    worker_requests: int = 8192
    linger_s: float = 1.0
    write_timeout_s: float = 300.0
    mirror_copies: int = 512
    sniff_timeout_s: float = 0.1
    max_streams: int = 100
