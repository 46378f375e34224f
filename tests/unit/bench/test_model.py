"""Ours beside each peer's."""

from __future__ import annotations

from bench.model import Peer, rows
from tests.unit.bench.samples import measured


def test_a_row_for_each_peer_of_the_same_scenario_and_metric() -> None:
    found = rows(
        (
            measured("x", Peer.OURS, "p50_us", 10.0),
            measured("x", Peer.NO_MESH, "p50_us", 8.0),
            measured("x", Peer.ENVOY_HBONE, "p50_us", 20.0),
            measured("x", Peer.NO_MESH, "p99_us", 1.0),
            measured("y", Peer.NO_MESH, "p50_us", 1.0),
        )
    )
    assert [(row.peer, row.ratio) for row in found] == [
        (Peer.NO_MESH, 1.25),
        (Peer.ENVOY_HBONE, 0.5),
    ]


def test_ours_alone_is_a_row_without_a_ratio() -> None:
    [row] = rows((measured("x", Peer.OURS, "seconds", 2.0),))
    assert (row.peer, row.theirs, row.ratio) == (None, None, None)


def test_a_peers_number_without_ours_is_no_row() -> None:
    assert rows((measured("x", Peer.NO_MESH, "seconds", 2.0),)) == []
