"""Tunnels that clients' ztunnels open to port 15008: each CONNECT becomes a client's connection.

Only what this waypoint stands for is served: a service or workload that names it. Anything else
would let a caller borrow the waypoint's identity.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Protocol

from mesh.errors import ConfigError, MeshnodeError
from mesh.hbone.authority import Authority
from mesh.hbone.connect import parse_connect
from mesh.model.address import SocketAddress, canonical_ip, parse_ip, parse_socket_address
from mesh.model.credentials import Credentials
from mesh.model.identity import SpiffeId
from mesh.model.snapshot import MeshSnapshot
from mesh.telemetry.party import party
from mesh.tunnel.contract import End, Headers, Loss, StreamRequest, Tunnel, TunnelEngine
from mesh.tunnel.expired import ExpiredTunnels
from waypoint.contract import Origin
from waypoint.downstream.front import Front

log = logging.getLogger(__name__)


class State(Protocol):
    """What is known at present."""

    snapshot: MeshSnapshot

    def own(self) -> Credentials | None: ...


def find_origin(
    snapshot: MeshSnapshot,
    waypoint: str,
    principal: SpiffeId | None,
    client: SocketAddress,
    authority: Authority,
) -> Origin | None:
    """What a CONNECT is about; None if it is none of this waypoint's business."""
    if isinstance(authority, SocketAddress):
        dialled: SocketAddress | None = authority
        service = snapshot.by_vip.get(authority.ip)
    else:
        service = next(
            (s for s in snapshot.services.values() if s.hostname == authority.host), None
        )
        address = service.addresses[0] if service and service.addresses else None
        dialled = SocketAddress(address, authority.port) if address else None
    if dialled is None:
        return None
    workload = None if service is not None else snapshot.by_address.get(dialled.ip)
    named = service.waypoint if service is not None else workload.waypoint if workload else None
    if named != waypoint:
        return None
    caller = snapshot.by_address.get(client.ip)
    if caller is not None and caller.identity != principal:
        caller = None
    return Origin(
        principal=principal,
        client=client,
        dialled=dialled,
        service=service,
        workload=workload,
        src=party(caller, principal),
    )


class _ClientStream:
    """`StreamEvents` of a client's connection; its codec notices the end by itself."""

    def stream_opened(self, headers: Headers) -> None:
        raise AssertionError("only clients are told of an answer")

    def stream_refused(self, status: int, headers: Headers, detail: str) -> None:
        raise AssertionError("only clients are refused")

    def stream_closed(self, end: End) -> None: ...


class _InboundTunnel:
    """`TunnelEvents` of one client's tunnel; `expires_at`: end of the certificate we showed."""

    def __init__(self, owner: Inbound, client: SocketAddress, expires_at: float) -> None:
        self._owner = owner
        self._client = client
        self._expires_at = expires_at

    def tunnel_up(self, tunnel: Tunnel) -> None:
        expires_at = min(self._expires_at, tunnel.peer_expires_at)
        self._owner.tunnels[tunnel] = Proven(client=self._client, until=expires_at)

    def tunnel_draining(self, tunnel: Tunnel) -> None: ...

    def stream_requested(self, tunnel: Tunnel, request: StreamRequest) -> None:
        self._owner.requested(tunnel, self._client, request)

    def stream_slot_free(self, tunnel: Tunnel) -> None: ...

    def tunnel_lost(self, tunnel: Tunnel, loss: Loss) -> None:
        if not self._owner.lost(tunnel):
            log.warning("tunnel of %s: %s (%s)", self._client, loss.detail, loss.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """Who holds a tunnel, and how long certificates prove it (epoch s)."""

    client: SocketAddress
    until: float


class Inbound:
    """All tunnels of one worker."""

    def __init__(
        self,
        *,
        waypoint: str,
        state: State,
        engine: TunnelEngine,
        front: Front,
        spawn: Callable[[Coroutine[None, None, None]], None],
        expired: ExpiredTunnels,
        epoch_s: Callable[[], float] = time.time,
    ) -> None:
        self._expired = expired
        self._epoch_s = epoch_s
        self._waypoint = waypoint
        self._state = state
        self._engine = engine
        self._front = front
        self._spawn = spawn
        self.tunnels: dict[Tunnel, Proven] = {}

    def accepted(self, sock: socket.socket) -> None:
        """Take a TCP connection to the HBONE port."""
        try:
            host, port = sock.getpeername()[:2]
            client = SocketAddress(canonical_ip(parse_ip(host)), port)
        except (OSError, ConfigError) as error:
            log.info("a client went away: %s", error)
            sock.close()
            return
        credentials = self._state.own()
        if credentials is None:
            log.warning("no valid certificate: refused a tunnel of %s", client)
            sock.close()
            return
        events = _InboundTunnel(self, client, credentials.svid.not_after)
        self._engine.server(sock, credentials, events)

    def lost(self, tunnel: Tunnel) -> bool:
        """A tunnel has ended; False if it never was up."""
        self._expired.forget(tunnel)
        return self.tunnels.pop(tunnel, None) is not None

    def retire_expired(self) -> None:
        """Let clients dial again where the certificate they were shown, or showed, has ended."""
        now = self._epoch_s()
        for tunnel, proven in self.tunnels.items():
            if proven.until <= now:
                self._expired.retire(tunnel, now, f"tunnel of {tunnel.peer} from {proven.client}")

    def requested(self, tunnel: Tunnel, client: SocketAddress, request: StreamRequest) -> None:
        """Judge one CONNECT and give its bytes to the front."""
        if tunnel.peer_expires_at <= self._epoch_s():
            # A client that does not heed GOAWAY could go on for ever with what it proved once.
            request.decline()
            return
        peer = tunnel.peer
        try:
            connect = parse_connect(request.headers)
        except MeshnodeError as error:
            log.info("bad CONNECT of %s: %s", client, error)
            request.refuse(400)
            return
        source = SocketAddress(client.ip, _claimed_port(connect.forwarded.source, client))
        snapshot = self._state.snapshot
        origin = find_origin(snapshot, self._waypoint, peer, source, connect.authority)
        if origin is None:
            log.warning("%s of %s is not served by %s", connect.authority, peer, self._waypoint)
            request.refuse(503)
            return
        inner, outer = socket.socketpair()
        inner.setblocking(False)
        outer.setblocking(False)
        request.accept((), inner, _ClientStream())
        self._spawn(self._front.serve(outer, origin))

    def drain(self, timeout_s: float) -> None:
        """Tell every client to dial another worker."""
        for tunnel in list(self.tunnels):
            tunnel.drain(timeout_s)


def _claimed_port(text: str, client: SocketAddress) -> int:
    """The port a ztunnel says its client has; for logs only, and only of the tunnel's address."""
    try:
        claimed = parse_socket_address(text)
    except ConfigError:
        return 0
    return claimed.port if claimed.ip == client.ip else 0
