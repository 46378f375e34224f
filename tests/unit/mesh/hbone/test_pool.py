from __future__ import annotations

import math
import socket
from dataclasses import dataclass, replace

from mesh.hbone.pool import IDLE_TIMEOUT_S, STREAMS_PER_TUNNEL, PoolKey, TunnelPool
from mesh.model.address import parse_socket_address
from mesh.model.identity import SpiffeId, parse_spiffe_id
from mesh.model.workload import WorkloadUid
from mesh.tunnel.contract import Headers, Stream, StreamEvents

ALICE = parse_spiffe_id("spiffe://cluster.local/ns/default/sa/alice")
KEY = PoolKey(
    WorkloadUid("pod/default/a"), ALICE, parse_socket_address("10.0.0.9:15008"), frozenset({ALICE})
)


@dataclass(eq=False)
class LoadedTunnel:
    """A tunnel that is only its numbers: the pool never calls it."""

    active_streams: int = 0
    can_open: bool = True
    peer: SpiffeId | None = None
    peer_expires_at: float = 0.0

    def open_stream(self, headers: Headers, sock: socket.socket, events: StreamEvents) -> Stream:
        raise AssertionError("the pool opens no streams")

    def drain(self, timeout_s: float) -> None:
        raise AssertionError("the pool drains nothing")

    def abort(self, detail: str = "") -> None:
        raise AssertionError("the pool aborts nothing")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_pool() -> tuple[TunnelPool[str], Clock]:
    clock = Clock()
    return TunnelPool(clock), clock


def up(pool: TunnelPool[str], streams: int = 0) -> LoadedTunnel:
    assert pool.wait(KEY, "first")
    tunnel = LoadedTunnel(active_streams=streams)
    pool.dialled(KEY, tunnel)
    assert pool.pop_waiter(KEY) == "first"
    return tunnel


def test_empty_pool_has_nothing() -> None:
    pool, _ = make_pool()
    assert pool.take(KEY) is None


def test_only_the_first_waiter_dials() -> None:
    pool, _ = make_pool()
    assert pool.wait(KEY, "a") is True
    assert pool.wait(KEY, "b") is False
    tunnel = LoadedTunnel()
    pool.dialled(KEY, tunnel)
    assert pool.take(KEY) is tunnel
    assert [pool.pop_waiter(KEY), pool.pop_waiter(KEY), pool.pop_waiter(KEY)] == ["a", "b", None]


def test_more_waiters_than_a_tunnel_takes_dial_another() -> None:
    pool, _ = make_pool()
    dials = [pool.wait(KEY, str(n)) for n in range(STREAMS_PER_TUNNEL + 1)]
    assert dials.count(True) == 2
    assert dials[0]
    assert dials[-1]


def test_fullest_usable_tunnel_is_taken() -> None:
    pool, _ = make_pool()
    up(pool, streams=3)
    fuller = up(pool, streams=7)
    up(pool, streams=STREAMS_PER_TUNNEL)
    closed = up(pool, streams=50)
    closed.can_open = False
    assert pool.take(KEY) is fuller


def test_failed_dial_fails_those_nobody_else_dials_for() -> None:
    pool, _ = make_pool()
    for n in range(STREAMS_PER_TUNNEL + 2):
        pool.wait(KEY, str(n))
    assert pool.dial_failed(KEY) == ["100", "101"]
    assert len(pool.dial_failed(KEY)) == STREAMS_PER_TUNNEL
    assert pool.take(KEY) is None


def test_waiter_that_gave_up_is_forgotten() -> None:
    pool, _ = make_pool()
    pool.wait(KEY, "a")
    pool.wait(KEY, "b")
    pool.forget_waiter(KEY, "a")
    assert pool.dial_failed(KEY) == ["b"]


def test_lost_tunnel_is_not_used_again() -> None:
    pool, _ = make_pool()
    tunnel = up(pool)
    pool.lost(KEY, tunnel)
    pool.lost(KEY, tunnel)
    assert pool.take(KEY) is None
    assert pool.tunnels() == []


def test_idle_tunnels_are_those_unused_for_five_minutes() -> None:
    pool, clock = make_pool()
    tunnel = up(pool)
    busy = up(pool, streams=1)
    assert pool.idle() == []
    clock.now += IDLE_TIMEOUT_S
    assert pool.idle() == [tunnel]
    # A spare tunnel of a busy moment goes, though others of its key are in use.
    assert pool.take(KEY) is busy
    assert pool.idle() == [tunnel]
    busy.active_streams = 0
    clock.now += IDLE_TIMEOUT_S - 1
    assert pool.idle() == [tunnel]
    assert pool.take(KEY) is tunnel
    clock.now += 1
    assert pool.idle() == [busy]


def test_a_tunnel_past_its_certificate_is_handed_out_no_more() -> None:
    pool, _ = make_pool()
    old, new = LoadedTunnel(), LoadedTunnel()
    for tunnel, expires_at in ((old, 100.0), (new, 200.0)):
        pool.wait(KEY, "x")
        pool.dialled(KEY, tunnel, expires_at)
        pool.pop_waiter(KEY)
    assert pool.expired(99.0) == []
    assert pool.expired(100.0) == [(KEY, old)]
    assert pool.take(KEY) is new
    assert pool.expired(100.0) == []


def test_the_tunnels_of_a_departed_workload_are_handed_out_no_more() -> None:
    pool, _ = make_pool()
    idle, busy = up(pool), up(pool, streams=3)
    other = replace(KEY, source=WorkloadUid("pod/default/b"))
    assert pool.wait(other, "another's")
    kept = LoadedTunnel()
    pool.dialled(other, kept)
    assert dict(pool.leave(KEY.source)) == {idle: math.inf, busy: math.inf}
    assert pool.leave(KEY.source) == []
    assert pool.take(KEY) is None
    assert pool.take(other) is kept
