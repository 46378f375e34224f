from __future__ import annotations

from ipaddress import ip_address

from agent.capture.telemetry import (
    ClosedConnection,
    DeniedConnect,
    Traffic,
    decode_event,
    sum_stats,
)
from bpf.layout import Addr, Event, EventKind, PathKind, Reason, Stats, Tuple


def addr(text: str) -> Addr:
    return Addr.of(ip_address(text))


def test_processors_are_added_up() -> None:
    raw = bytes(Stats(opened=1, bytes_sent=2**40)) + bytes(Stats(opened=2, bytes_sent=1))
    assert sum_stats(raw) == Traffic(opened=3, bytes_sent=2**40 + 1)
    assert Traffic(opened=3, closed=2).minus(Traffic(opened=1)) == Traffic(opened=2, closed=2)


def test_denied_connect() -> None:
    event = Event(
        kind=EventKind.DENIED,
        reason=Reason.DENY_POLICY,
        policy_reason=4,
        orig=addr("10.0.0.1"),
        orig_port=80,
        tuple=Tuple(dst=addr("10.0.0.2"), dst_port=8080),
    )
    denied = decode_event(bytes(event))
    assert isinstance(denied, DeniedConnect)
    assert (str(denied.dialled), str(denied.dst)) == ("10.0.0.1:80", "10.0.0.2:8080")
    assert (denied.reason, denied.policy_reason) == (Reason.DENY_POLICY, 4)


def test_closed_connection() -> None:
    event = Event(
        kind=EventKind.CLOSED,
        path=PathKind.DIRECT,
        established=1,
        duration_ns=1_500_000_000,
        bytes_sent=5,
        tuple=Tuple(src=addr("fd00::1"), src_port=1, dst=addr("fd00::2"), dst_port=2),
    )
    closed = decode_event(bytes(event))
    assert isinstance(closed, ClosedConnection)
    assert (closed.path, closed.established, closed.duration_s) == (PathKind.DIRECT, True, 1.5)
    assert str(closed.src) == "[fd00::1]:1"
