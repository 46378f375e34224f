"""Who leads, decided without a clock of its own."""

from __future__ import annotations

from dataclasses import replace

from controller.lease import Candidate, LeaseRecord, LeaseTiming

TIMING = LeaseTiming(duration_s=15.0, renew_within_s=10.0, retry_s=2.0)


def candidate(name: str = "a") -> Candidate:
    return Candidate(name, TIMING)


def held(by: str, version: str = "1") -> LeaseRecord:
    return LeaseRecord(holder=by, duration_s=15.0, transitions=3, version=version)


def test_without_a_lease_the_first_makes_it() -> None:
    one = candidate()
    one.observe(LeaseRecord(), 0.0)
    bid = one.bid(0.0, 1000.0)
    assert bid is not None
    assert (bid.holder, bid.version, bid.transitions) == ("a", "", 0)
    assert not one.leads(0.0)
    one.won(replace(bid, version="1"), 0.0)
    assert one.leads(9.9)
    assert not one.leads(10.0)


def test_another_ones_lease_is_left_alone_until_it_stood_still_for_its_duration() -> None:
    one = candidate()
    one.observe(held("b"), 100.0)
    assert one.bid(114.9, 0.0) is None
    # A renewal was seen: it counts from then, whatever the other's clock says.
    one.observe(replace(held("b"), version="2", renewed_at=-1e9), 114.0)
    assert one.bid(128.9, 0.0) is None
    bid = one.bid(129.0, 5.0)
    assert bid is not None
    assert (bid.holder, bid.version, bid.transitions, bid.acquired_at) == ("a", "2", 4, 5.0)


def test_a_lease_that_was_let_go_is_taken_at_once() -> None:
    one = candidate()
    one.observe(replace(held("b"), holder=""), 100.0)
    assert one.bid(100.0, 0.0) is not None


def test_renewal_keeps_when_it_began() -> None:
    one = candidate()
    one.observe(replace(held("a"), acquired_at=7.0), 0.0)
    bid = one.bid(1.0, 50.0)
    assert bid is not None
    assert (bid.acquired_at, bid.renewed_at, bid.transitions) == (7.0, 50.0, 3)


def test_whoever_sees_another_holder_stops_at_once() -> None:
    one = candidate()
    one.won(held("a"), 0.0)
    assert one.leads(1.0)
    one.observe(held("b", "2"), 1.0)
    assert not one.leads(1.0)
    assert one.leads_until() is None


def test_nobody_leads_twice_while_the_server_is_gone() -> None:
    """The old leader stops before the other may begin, counted from the same last renewal."""
    old, new = candidate("a"), candidate("b")
    old.won(held("a"), 0.0)
    new.observe(held("a"), 0.0)
    for at in range(20):
        assert not (old.leads(at) and new.bid(at, 0.0) is not None)


def test_letting_go() -> None:
    one = candidate()
    assert one.release(0.0) is None
    one.won(held("a"), 0.0)
    record = one.release(9.0)
    assert record is not None
    assert (record.holder, record.version) == ("", "1")
    assert not one.leads(0.0)
