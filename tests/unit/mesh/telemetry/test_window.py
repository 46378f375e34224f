"""The last minutes in memory: right sums, and bounds that nobody can move."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest

from mesh.model.connection import Reporter
from mesh.telemetry.denials import MAX_DENIALS
from mesh.telemetry.requests import BUCKETS_MS
from mesh.telemetry.window import (
    LIMIT,
    MAX_CELLS,
    MAX_EDGES,
    OVERFLOW,
    SLOT_S,
    WINDOW_S,
    Edge,
    TrafficWindow,
)
from mesh.telemetry.window_feed import RecentTraffic, edge_of
from mesh.telemetry.window_stats import By, edges, quantile, stat
from tests.unit.mesh.telemetry.records import BASE, denied


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recent(clock: Clock) -> RecentTraffic:
    return RecentTraffic("node/n1", now=clock, clock=clock)


def an_edge(number: int) -> Edge:
    return Edge(
        reporter="source",
        path="hbone",
        src_namespace="a",
        src=f"s{number}",
        src_identity="",
        dst_namespace="b",
        dst="d",
        dst_identity="",
        service="b/d",
        route="",
        secured=True,
    )


def test_counts_fall_out_of_the_window(recent: RecentTraffic, clock: Clock) -> None:
    recent.record(BASE, also_opened=True)
    (edge,) = recent.answer(60).edges
    assert (edge.opened, edge.closed, edge.failed) == (1, 1, 0)
    assert (edge.sent, edge.received, edge.service) == (100, 2000, "bank/pay")
    clock.now += 100
    assert recent.answer(60).edges == ()
    assert len(recent.answer(300).edges) == 1
    clock.now += WINDOW_S + SLOT_S
    assert recent.answer(WINDOW_S).edges == ()
    assert recent.window.edges == recent.window.cells == 0


def test_a_young_agent_does_not_claim_a_minute(recent: RecentTraffic, clock: Clock) -> None:
    clock.now += 5
    recent.record(BASE)
    assert recent.answer(60).covered_s == 5.0
    clock.now += 600
    assert recent.answer(60).covered_s == 60.0


def test_points_show_the_course(recent: RecentTraffic, clock: Clock) -> None:
    for _ in range(3):
        recent.record(BASE)
        clock.now += SLOT_S
    (edge,) = recent.answer(60, points=True).edges
    assert [point.closed for point in edge.points] == [1, 1, 1]
    assert [point.ago_s for point in edge.points] == [30.0, 20.0, 10.0]


@pytest.mark.parametrize(
    ("about", "found"), [("bank/pay", 1), ("shop/cart", 1), ("bank/", 1), ("bank/x", 0), ("b/", 0)]
)
def test_only_what_is_asked_about(recent: RecentTraffic, about: str, found: int) -> None:
    recent.record(BASE)
    assert len(recent.answer(60, about=about).edges) == found


def test_a_new_edge_beyond_the_bound_is_counted_as_overflow(clock: Clock) -> None:
    window = TrafficWindow(clock, max_edges=3)
    for number in range(10):
        window.add(an_edge(number), (1,))
    assert window.overflowed == 7
    (slot,) = window.slots(60)
    assert {edge.src: cell[0] for edge, cell in slot.cells.items()}[OVERFLOW] == 7
    assert sum(cell[0] for cell in slot.cells.values()) == 10


def test_too_many_cells_shorten_the_past_and_lose_nothing_recent(clock: Clock) -> None:
    window = TrafficWindow(clock, max_cells=12)
    for _ in range(60):
        for number in range(5):
            window.add(an_edge(number), (1,))
        clock.now += SLOT_S
    assert window.cells <= 12
    newest = window.slots(15)[-1]
    assert sorted(cell[0] for cell in newest.cells.values()) == [1] * 5
    assert window.complete_since > window.started_at
    total = sum(cell[0] for slot in window.slots(WINDOW_S) for cell in slot.cells.values())
    assert total == 5 * round((clock.now - window.complete_since) / SLOT_S)


@pytest.mark.slow
def test_memory_is_bounded_with_ten_thousand_edges_and_more(clock: Clock) -> None:
    tracemalloc.start()
    window = TrafficWindow(clock)
    counts = [1, 1, 0, 0, 500_000, 700_000, *([1000] * (len(BUCKETS_MS) + 1))]
    edges_known = [an_edge(number) for number in range(MAX_EDGES + 2000)]
    peaks = []
    for turn in range(8):
        for number in range(MAX_EDGES + 2000):
            window.add(edges_known[number], counts)
        clock.now += SLOT_S
        if turn > 5:
            peaks.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert window.edges <= MAX_EDGES + 1
    assert window.cells <= MAX_CELLS
    assert max(peaks) < 40 << 20, peaks
    assert max(peaks) < 1.2 * min(peaks), peaks


def test_numbers_without_sense_spoil_nothing_else(clock: Clock) -> None:
    window = TrafficWindow(clock)
    for count in (1 << 64, 1 << 70, 5):
        window.add(an_edge(1), (count, 1))
    window.add(an_edge(2), (-5, 1))
    (slot,) = window.slots(60)
    assert list(slot.cells[an_edge(1)])[:2] == [LIMIT, 3]
    assert list(slot.cells[an_edge(2)])[:2] == [0, 1]


def test_names_of_clients_do_not_make_edges(recent: RecentTraffic) -> None:
    for port in range(1, 200):
        record = replace(BASE, src_addr=replace(BASE.src_addr, port=port), detail=f"text {port}")
        recent.record(record)
    assert recent.window.edges == 1


def test_denials_name_rule_and_reason_and_are_bounded(recent: RecentTraffic) -> None:
    recent.record(denied())
    recent.record(denied())
    (one,) = recent.answer(60).denials
    assert (one.count, one.policy) == (2, "AuthorizationPolicy bank/only-cart rule[0]")
    assert (one.src, one.dst, one.reason) == ("shop/cart", "bank/pay", "denied")
    for number in range(MAX_DENIALS + 50):
        recent.record(replace(denied(), policy=f"AuthorizationPolicy a/b rule[{number}]"))
    assert len(recent.answer(60).denials) == MAX_DENIALS
    assert len(replace(one, example="x" * 5000).example) == 5000  # the bound is the ring's
    recent.denials.add(replace(one, example="x" * 5000))
    assert len(recent.answer(60).denials[0].example) == 200


def test_a_connection_that_both_ends_report_counts_once(recent: RecentTraffic) -> None:
    recent.record(BASE, also_opened=True)
    recent.record(replace(BASE, reporter=Reporter.DESTINATION), also_opened=True)
    (row,) = stat([recent.answer(10)], By.WORKLOAD)
    assert (row.name, row.success, row.connections_s) == ("bank/pay", 1.0, 1.0)
    (edge,) = edges([recent.answer(10)])
    assert (edge.src, edge.dst, edge.path, edge.secured) == ("shop/cart", "bank/pay", "hbone", True)


def test_a_connection_that_only_its_destination_reports_counts(recent: RecentTraffic) -> None:
    recent.record(denied())
    (row,) = stat([recent.answer(10)], By.NAMESPACE)
    assert (row.name, row.success, row.denied, row.rps) == ("bank", 0.0, 1, None)
    (edge,) = edges([recent.answer(10)])
    assert not edge.secured


def test_requests_speak_for_success_and_latency(recent: RecentTraffic) -> None:
    edge = edge_of(BASE)._replace(reporter="waypoint", path="waypoint", route="shop/r/0")
    buckets = [0, 0, 98, 0, 2, *[0] * 15]
    recent.requests(edge, [100, 100, 5, 5, 10, 20, *buckets])
    recent.record(BASE, also_opened=True)
    (row,) = stat([recent.answer(10)], By.SERVICE)
    assert (row.rps, row.success, row.denied) == (100.0, 0.95, 5)
    assert row.p50_ms is not None
    assert 1 < row.p50_ms < 5
    assert row.p99_ms is not None
    assert 10 < row.p99_ms <= 25
    assert [found.name for found in stat([recent.answer(10)], By.ROUTE)] == ["shop/r/0"]


def test_rows_that_are_wanted_are_there_when_idle() -> None:
    (row,) = stat([], By.SERVICE, names=["shop/web"])
    assert (row.name, row.success, row.rps, row.connections_s) == ("shop/web", None, None, 0.0)


@pytest.mark.parametrize(
    ("buckets", "share", "wanted"),
    [([], 0.5, None), ([10], 0.5, 0.25), ([0, 0, 0, 4], 0.25, 6.25), ([0] * 19 + [1], 0.5, 3.6e6)],
)
def test_quantiles_interpolate(buckets: list[int], share: float, wanted: float | None) -> None:
    assert quantile(buckets, share) == wanted
