"""Bars are judged by the ratio to the right peer, or by our own number."""

from __future__ import annotations

import pytest

from bench.bars import BARS, Bar, Verdict, judge
from bench.model import METRICS, Peer, rows
from tests.unit.bench.samples import measured

RATIO = Bar(
    text="round trip", scenario="x", metric="p50_us", limit=1.05, at_most=True, peer=Peer.NO_MESH
)
RATE = Bar(
    text="rate", scenario="x", metric="gbit_per_s", limit=1.0, at_most=False, peer=Peer.NO_MESH
)
OWN = Bar(text="start", scenario="x", metric="seconds", limit=3.0, at_most=True)


@pytest.mark.parametrize(
    ("bar", "ours", "theirs", "verdict"),
    [
        (RATIO, 105.0, 100.0, Verdict.MET),
        (RATIO, 106.0, 100.0, Verdict.NOT_MET),
        (RATE, 5.0, 5.0, Verdict.MET),
        (RATE, 4.9, 5.0, Verdict.NOT_MET),
    ],
)
def test_a_ratio_is_judged(bar: Bar, ours: float, theirs: float, verdict: Verdict) -> None:
    found = rows(
        (
            measured("x", Peer.OURS, bar.metric, ours),
            measured("x", Peer.ENVOY_TLS, bar.metric, ours * 1000),
            measured("x", Peer.NO_MESH, bar.metric, theirs),
        )
    )
    assert judge(bar, found) == (verdict, ours / theirs)


@pytest.mark.parametrize(("seconds", "verdict"), [(3.0, Verdict.MET), (3.1, Verdict.NOT_MET)])
def test_our_own_number_is_judged(seconds: float, verdict: Verdict) -> None:
    found = rows((measured("x", Peer.OURS, "seconds", seconds),))
    assert judge(OWN, found) == (verdict, seconds)


def test_without_its_peer_a_bar_is_not_measured() -> None:
    found = rows(
        (
            measured("x", Peer.OURS, "p50_us", 1.0),
            measured("x", Peer.ENVOY_TLS, "p50_us", 1.0),
        )
    )
    assert judge(RATIO, found) == (Verdict.NOT_MEASURED, None)


def test_every_bar_names_a_known_metric_in_the_right_direction() -> None:
    for bar in BARS:
        assert (METRICS[bar.metric].better == "lower") is bar.at_most, bar
