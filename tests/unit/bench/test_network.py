"""Who can take part where a machine sets limits."""

from __future__ import annotations

from bench.model import Peer
from bench.plan import FULL, QUICK
from bench.scenarios.network import FAR_PEERS, PROXIED_PEERS, TLS_PAIRS, idle_peers, takes_part


def test_all_take_part_where_there_are_files_enough() -> None:
    assert idle_peers(1000, 20_000) == list(PROXIED_PEERS)
    assert idle_peers(10_000, 1_000_000) == list(PROXIED_PEERS)


def test_a_connection_per_connection_needs_twice_the_files() -> None:
    assert idle_peers(10_000, 20_000) == [Peer.OURS, Peer.ENVOY_HBONE]


def test_a_short_run_leaves_out_pairs_without_multiplexing() -> None:
    assert {p for p in FAR_PEERS if not takes_part(p, QUICK, "cross-node/connects")} == TLS_PAIRS
    assert takes_part(Peer.ENVOY_TLS, FULL, "cross-node/connects")
