"""Connections that arrive at a pod without a tunnel: everything `sk_lookup` steers to port 15006.

The peer has no identity. Policy decides (PERMISSIVE or STRICT, and the rules); what is admitted is
relayed to the application, which sees the client's own address.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from agent.ztunnel.context import WorkerContext
from agent.ztunnel.dial_app import dial_application
from agent.ztunnel.plan_inbound import AdmitPlan, InboundRequest, RejectPlan, plan_inbound
from agent.ztunnel.recorder import OpenRecord
from agent.ztunnel.sockets import name_to_address, reset
from mesh.errors import UpstreamError
from mesh.model.address import SocketAddress
from mesh.model.connection import Path, Reporter, ResponseFlag
from mesh.model.verdict import ConnectionFacts, Verdict
from mesh.model.workload import WorkloadUid
from mesh.telemetry.party import party
from mesh.tunnel.contract import End, Relay


@dataclass(slots=True, eq=False)
class PlaintextConnection:
    """One admitted plaintext connection."""

    context: WorkerContext
    uid: WorkloadUid
    facts: ConnectionFacts
    record: OpenRecord
    relay: Relay | None = None
    denied: Verdict | None = None

    def cut(self, verdict: Verdict) -> None:
        self.denied = verdict
        if self.relay is not None:
            self.relay.abort(f"policy changed: {verdict}")

    def relay_closed(self, end: End) -> None:
        self.context.live.remove(self)
        self.context.recorder.closed(
            self.record,
            end,
            towards_destination=end.bytes_out,
            flag=ResponseFlag.POLICY_CHANGE if self.denied else None,
        )


@dataclass(frozen=True, slots=True)
class Plaintext:
    """All plaintext inbound connections of one worker."""

    context: WorkerContext

    def accepted(self, uid: WorkloadUid, sock: socket.socket, client: SocketAddress) -> None:
        """Take a connection steered to 15006 in the pod `uid`; `getsockname()` of it is the
        original destination (`bpf_sk_assign`)."""
        state = self.context.state
        dialled = name_to_address(sock.getsockname())
        plan = plan_inbound(
            state.snapshot,
            state.policies,
            InboundRequest(uid=uid, principal=None, src=client, dst=dialled),
        )
        record = self.context.recorder.begin(
            reporter=Reporter.DESTINATION,
            path=Path.PASSTHROUGH,
            src=party(state.snapshot.by_address.get(client.ip)),
            dst=party(plan.workload, plan.workload.identity if plan.workload else None),
            src_addr=client,
            dst_addr=dialled,
            verdict=plan.verdict,
        )
        match plan:
            case RejectPlan():
                reset(sock)
                self.context.recorder.failed(record, plan.flag, plan.detail)
            case AdmitPlan():
                admitted = PlaintextConnection(self.context, uid, plan.facts, record)
                self.context.spawn(self._serve(admitted, sock))

    async def _serve(self, admitted: PlaintextConnection, client: socket.socket) -> None:
        context = self.context
        context.live.add(admitted)
        try:
            application = await dial_application(
                context.sockets, admitted.uid, admitted.facts.dst, admitted.facts.src.ip
            )
        except UpstreamError as error:
            context.live.remove(admitted)
            reset(client)
            context.recorder.failed(admitted.record, ResponseFlag.CONNECT, str(error))
            return
        if admitted.denied is not None:
            context.live.remove(admitted)
            application.close()
            reset(client)
            context.recorder.failed(admitted.record, ResponseFlag.DENY, str(admitted.denied))
            return
        context.recorder.opened(admitted.record)
        admitted.relay = context.engine.relay(client, application, admitted)
        context.recorder.watch(admitted.record, admitted.relay, outbound=True)
