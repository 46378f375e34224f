"""Connections that arrive through a tunnel: port 15008 of every pod.

tunnel accepted -> peer verified -> CONNECT -> policy -> application connected -> 200 -> record.
The application is connected *before* the answer, so that a client learns of a dead one.
"""

from __future__ import annotations

import logging
import math
import socket
from dataclasses import dataclass, field

from agent.ztunnel.context import WorkerContext
from agent.ztunnel.dial_app import dial_application
from agent.ztunnel.far_lanes import FarDecision, FarLanes
from agent.ztunnel.plan_inbound import (
    BAD_REQUEST,
    UNAVAILABLE,
    AdmitPlan,
    InboundRequest,
    RejectPlan,
    plan_inbound,
    resolve_authority,
)
from agent.ztunnel.recorder import OpenRecord
from agent.ztunnel.sockets import NoHolderError
from mesh.errors import ConfigError, MeshnodeError, UpstreamError
from mesh.hbone.connect import check_connect, parse_connect
from mesh.model.address import SocketAddress, parse_socket_address
from mesh.model.connection import Path, Reporter, ResponseFlag
from mesh.model.credentials import Credentials
from mesh.model.snapshot import MeshSnapshot
from mesh.model.verdict import ConnectionFacts, Verdict
from mesh.model.workload import WorkloadUid
from mesh.telemetry.party import party
from mesh.tunnel.contract import End, Loss, LossReason, Stream, StreamRequest, Tunnel

log = logging.getLogger(__name__)

CREDENTIALS_WAIT_S = 5.0
SEND_AWAY_S = 3600.0
"""Time that open streams have left on a tunnel that takes no new ones for want of a holder."""


@dataclass(slots=True, eq=False)
class InboundStream:
    """One admitted stream, from the policy decision to its end."""

    context: WorkerContext
    uid: WorkloadUid
    facts: ConnectionFacts
    record: OpenRecord
    snapshot: MeshSnapshot
    """The one that policy was asked with."""
    stream: Stream | None = None
    denied: Verdict | None = None

    def cut(self, verdict: Verdict) -> None:
        self.denied = verdict
        if self.stream is not None:
            self.stream.abort(f"policy changed: {verdict}")

    def stream_opened(self, headers: object) -> None:
        raise AssertionError("only clients are told of an answer")

    def stream_refused(self, status: int, headers: object, detail: str) -> None:
        raise AssertionError("only clients are refused")

    def stream_closed(self, end: End) -> None:
        self.context.live.remove(self)
        self.context.recorder.closed(
            self.record,
            end,
            towards_destination=end.bytes_in,
            flag=ResponseFlag.POLICY_CHANGE if self.denied else None,
        )


@dataclass(slots=True, eq=False)
class InboundTunnel:
    """`TunnelEvents` of one accepted tunnel."""

    owner: Inbound
    uid: WorkloadUid
    client: SocketAddress
    expires_at: float = math.inf
    """End of the certificate we showed, epoch seconds."""

    def tunnel_up(self, tunnel: Tunnel) -> None:
        self.owner.tunnels[tunnel] = self

    def tunnel_draining(self, tunnel: Tunnel) -> None:
        pass  # The client opens no more streams; the open ones go on.

    def stream_slot_free(self, tunnel: Tunnel) -> None:
        pass  # Servers open no streams.

    def stream_requested(self, tunnel: Tunnel, request: StreamRequest) -> None:
        self.owner.requested(self, tunnel, request)

    def tunnel_lost(self, tunnel: Tunnel, loss: Loss) -> None:
        self.owner.tunnels.pop(tunnel, None)
        self.owner.context.expired.forget(tunnel)
        self.owner.lanes.leave_tunnel(tunnel)
        if loss.reason in (LossReason.TLS, LossReason.IDENTITY, LossReason.HANDSHAKE_TIMEOUT):
            self.owner.refused_handshake(self, loss)


@dataclass(slots=True, eq=False)
class Inbound:
    """All accepted tunnels of one worker."""

    context: WorkerContext
    lanes: FarLanes
    tunnels: dict[Tunnel, InboundTunnel] = field(default_factory=dict)

    def accepted(self, uid: WorkloadUid, sock: socket.socket, client: SocketAddress) -> None:
        """Take a TCP connection to port 15008 of the pod `uid`."""
        workload = self.context.state.snapshot.workloads.get(uid)
        if workload is None:
            sock.close()
            return
        credentials = self.context.state.credentials(workload.identity, self.context.epoch_s())
        events = InboundTunnel(self, uid, client)
        if credentials is not None:
            self._serve_tunnel(sock, credentials, events)
        else:
            self.context.spawn(self._accept_late(sock, events))

    async def _accept_late(self, sock: socket.socket, events: InboundTunnel) -> None:
        """The certificate is on its way (a pod just enrolled), or expired: wait briefly."""
        workload = self.context.state.snapshot.workloads.get(events.uid)
        credentials = None
        if workload is not None:
            credentials = await self.context.state.wait_credentials(
                workload.identity, self.context.epoch_s(), CREDENTIALS_WAIT_S
            )
        if credentials is None:
            sock.close()
            log.warning("%s: no valid certificate, refused tunnel of %s", events.uid, events.client)
            return
        self._serve_tunnel(sock, credentials, events)

    def _serve_tunnel(
        self, sock: socket.socket, credentials: Credentials, events: InboundTunnel
    ) -> None:
        events.expires_at = credentials.svid.not_after
        self.context.engine.server(sock, credentials, events)

    def drop_untrusted(self) -> None:
        """End tunnels whose peer's trust domain is not accepted any more."""
        for tunnel, events in list(self.tunnels.items()):
            workload = self.context.state.snapshot.workloads.get(events.uid)
            if workload is None or tunnel.peer is None:
                continue
            trusted = self.context.state.trusted_domains(workload.identity)
            if trusted and tunnel.peer.trust_domain not in trusted:
                tunnel.abort(f"trust domain {tunnel.peer.trust_domain} is not accepted any more")

    def pod_closed(self, uid: WorkloadUid) -> None:
        """End the tunnels to a pod likewise; their clients are told to dial anew."""
        self.lanes.pod_closed(uid)
        for tunnel, events in list(self.tunnels.items()):
            if events.uid == uid:
                expires_at = min(events.expires_at, tunnel.peer_expires_at)
                self.context.expired.let_end(tunnel, expires_at, self.context.epoch_s())

    def send_away(self) -> None:
        """Tell all clients to dial again: another worker can serve what this one cannot."""
        for tunnel in list(self.tunnels):
            tunnel.drain(SEND_AWAY_S)

    def retire_expired(self) -> None:
        """Let clients dial again where the certificate they were shown, or showed, has ended."""
        now = self.context.epoch_s()
        for tunnel, events in list(self.tunnels.items()):
            if min(events.expires_at, tunnel.peer_expires_at) <= now:
                self.lanes.leave_tunnel(tunnel)
                what = f"tunnel of {tunnel.peer} from {events.client} to {events.uid}"
                self.context.expired.retire(tunnel, now, what)

    def refused_handshake(self, tunnel: InboundTunnel, loss: Loss) -> None:
        """Record a peer that failed the handshake; the log line says which check."""
        workload = self.context.state.snapshot.workloads.get(tunnel.uid)
        address = workload.addresses[0] if workload else tunnel.client.ip
        record = self.context.recorder.begin(
            reporter=Reporter.DESTINATION,
            path=Path.HBONE,
            src=party(None),
            dst=party(workload, workload.identity if workload else None),
            src_addr=tunnel.client,
            dst_addr=SocketAddress(address, 15008),
        )
        flag = (
            ResponseFlag.IDENTITY_ERROR
            if loss.reason is LossReason.IDENTITY
            else ResponseFlag.TLS_FAILURE
        )
        self.context.recorder.failed(record, flag, loss.detail)

    def requested(self, events: InboundTunnel, tunnel: Tunnel, request: StreamRequest) -> None:
        """Judge one CONNECT."""
        if tunnel.peer_expires_at <= self.context.epoch_s():
            # A client that does not heed GOAWAY could go on for ever with what it proved once.
            request.decline()
            return
        try:
            connect = parse_connect(request.headers)
        except MeshnodeError as error:
            log.info("%s: bad CONNECT of %s: %s", events.uid, events.client, error)
            request.refuse(BAD_REQUEST)
            return
        state = self.context.state
        target = resolve_authority(state.snapshot, events.uid, connect.authority)
        if target is None:
            log.info("%s: no service port for %s", events.uid, connect.authority)
            request.refuse(UNAVAILABLE)
            return
        asked = InboundRequest(
            uid=events.uid,
            principal=tunnel.peer,
            src=SocketAddress(events.client.ip, 0),
            dst=target,
        )
        plan = plan_inbound(state.snapshot, state.policies, asked)
        record = self._begin(events, asked, _claimed_source(connect.forwarded.source), plan)
        match plan:
            case RejectPlan():
                request.refuse(plan.status)
                self.context.recorder.failed(record, plan.flag, plan.detail)
            case AdmitPlan():
                admitted = InboundStream(
                    self.context, events.uid, plan.facts, record, state.snapshot
                )
                self.context.spawn(self._serve(admitted, tunnel, request))

    def _begin(
        self,
        events: InboundTunnel,
        asked: InboundRequest,
        claimed: SocketAddress | None,
        plan: AdmitPlan | RejectPlan,
    ) -> OpenRecord:
        # The port that a client claims is only for people; its address must be the tunnel's own.
        src_addr = claimed if claimed is not None and claimed.ip == asked.src.ip else asked.src
        source = self.context.state.snapshot.by_address.get(asked.src.ip)
        if source is not None and source.identity != asked.principal:
            source = None
        return self.context.recorder.begin(
            reporter=Reporter.DESTINATION,
            path=Path.HBONE,
            src=party(source, asked.principal),
            dst=party(plan.workload, plan.workload.identity if plan.workload else None),
            src_addr=src_addr,
            dst_addr=asked.dst,
            hbone_addr=events.client,
            mutual_tls=True,
            verdict=plan.verdict,
        )

    async def _serve(self, admitted: InboundStream, tunnel: Tunnel, request: StreamRequest) -> None:
        """Connect the application, then answer 200."""
        context = self.context
        context.live.add(admitted)
        try:
            sock = await dial_application(
                context.sockets, admitted.uid, admitted.facts.dst, admitted.facts.src.ip
            )
        except UpstreamError as error:
            context.live.remove(admitted)
            if isinstance(error, NoHolderError):
                request.decline()
            else:
                request.refuse(UNAVAILABLE)
            context.recorder.failed(admitted.record, ResponseFlag.CONNECT, str(error))
            return
        if admitted.denied is not None:
            context.live.remove(admitted)
            sock.close()
            request.refuse(401)
            context.recorder.failed(admitted.record, ResponseFlag.DENY, str(admitted.denied))
            return
        context.recorder.opened(admitted.record)
        admitted.stream = request.accept((), sock, admitted)
        context.recorder.watch(admitted.record, admitted.stream, outbound=False)
        if admitted.snapshot is context.state.snapshot and tunnel in self.tunnels:
            self.lanes.lay(
                FarDecision(
                    tunnel=tunnel,
                    uid=admitted.uid,
                    authority=check_connect(request.headers),
                    facts=admitted.facts,
                    record=admitted.record.record,
                )
            )


def _claimed_source(text: str) -> SocketAddress | None:
    """What the peer says of its client; telemetry only."""
    try:
        return parse_socket_address(text)
    except ConfigError:
        return None
