"""Kernel events in the form that `meshnode bpf monitor` shows."""

from __future__ import annotations

from agent.admin.view import FlowEvent
from agent.capture.telemetry import ClosedConnection, DeniedConnect, KernelEvent
from bpf.layout import Reason
from mesh.model.connection import ConnectionRecord
from mesh.telemetry.window_feed import party_name


def flow_event(event: KernelEvent, record: ConnectionRecord, lost: int) -> FlowEvent:
    """Combine what the kernel said with the record that was made of it."""
    verdict, reason = _outcome(event)
    return FlowEvent(
        at=record.opened_at + record.duration_s,
        verdict=verdict,
        reason=reason,
        policy=record.policy,
        src=party_name(record.src),
        dst=party_name(record.dst) or record.service,
        src_addr=str(record.src_addr),
        dst_addr=str(record.dst_addr),
        dialled=str(event.dialled),
        cookie=str(event.netns_cookie),
        duration_s=record.duration_s,
        bytes_sent=record.bytes_sent,
        bytes_received=record.bytes_received,
        lost=lost,
    )


def _outcome(event: KernelEvent) -> tuple[str, str]:
    match event:
        case DeniedConnect():
            return "denied", Reason(event.reason).name.lower()
        case ClosedConnection():
            verdict = "allowed" if event.established else "failed"
            return verdict, event.path.name.lower()
