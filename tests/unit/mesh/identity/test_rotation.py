"""The plan of a node's certificates: facts in, actions out, under a clock of the test."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.identity.rotation import (
    MAX_CONCURRENT,
    CertificateState,
    Expire,
    Fetch,
    Forget,
    Lifetime,
    Priority,
    RotationPlan,
)
from tests.unit.mesh.identity.builders import NOW, spiffe

WEB, DB = spiffe("web"), spiffe("db")


def plan(random: float = 0.5) -> RotationPlan:
    return RotationPlan(lambda: random)


def life(serial: str, begin: float, seconds: float = 100.0) -> Lifetime:
    return Lifetime(serial=serial, not_before=begin - 60, not_after=begin + seconds)


def test_fetched_when_wanted_and_renewed_at_half_life() -> None:
    core = plan()
    assert core.set_wanted({WEB: Priority.NOW}, NOW) == [Fetch(WEB)]
    assert core.set_wanted({WEB: Priority.NOW}, NOW) == []
    assert core.fetched(WEB, life("1", NOW), NOW) == []
    assert core.next_deadline() == NOW + 50
    assert core.on_deadline(NOW + 49) == []
    assert core.on_deadline(NOW + 50) == [Fetch(WEB)]
    assert core.next_deadline() == NOW + 100
    assert core.holds(WEB, "1")
    assert core.fetched(WEB, life("2", NOW + 51), NOW + 51) == []
    assert core.holds(WEB, "2")
    assert core.next_deadline() == NOW + 101


@given(st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_five_percent(random: float) -> None:
    core = plan(random)
    core.set_wanted({WEB: Priority.NOW}, NOW)
    core.fetched(WEB, life("1", NOW), NOW)
    assert NOW + 45 <= (core.next_deadline() or 0) <= NOW + 55


def test_back_off_doubles_up_to_150_seconds() -> None:
    core, now, delays = plan(), NOW, []
    core.set_wanted({WEB: Priority.NOW}, now)
    for _ in range(10):
        core.failed(WEB, "down", now)
        deadline = core.next_deadline()
        assert deadline is not None
        delays.append(deadline - now)
        now = deadline
        assert core.on_deadline(now) == [Fetch(WEB)]
    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 150, 150]


def test_back_off_spreads_by_a_fifth() -> None:
    early, late = plan(0.0), plan(0.999999)
    for core in (early, late):
        core.set_wanted({WEB: Priority.NOW}, NOW)
        core.failed(WEB, "down", NOW)
    assert early.next_deadline() == NOW + 0.8
    assert NOW + 1.19 < (late.next_deadline() or 0) <= NOW + 1.2


def test_the_old_certificate_serves_to_its_expiry_then_fails_closed() -> None:
    core, now, tries = plan(), NOW, []
    core.set_wanted({WEB: Priority.NOW}, now)
    core.fetched(WEB, life("1", now), now)
    now += 50
    assert core.on_deadline(now) == [Fetch(WEB)]
    while not (actions := core.failed(WEB, "down", now)):
        tries.append(now)
        now = core.next_deadline() or 0.0
        if now >= NOW + 100:
            break
        assert core.holds(WEB, "1")
        assert core.on_deadline(now) == [Fetch(WEB)]
    assert now == NOW + 100
    actions = core.on_deadline(now)
    assert actions == [Expire(WEB), Fetch(WEB)]
    assert not core.holds(WEB, "1")
    (status,) = core.statuses()
    assert status.state is CertificateState.EXPIRED
    assert status.last_error == "down"
    assert core.failed(WEB, "still down", now) == []
    assert (core.next_deadline() or 0) > now
    core.on_deadline(core.next_deadline() or 0.0)
    core.fetched(WEB, life("2", now + 200), now + 200)
    assert core.holds(WEB, "2")


def test_unwanted_is_forgotten_even_while_under_way() -> None:
    core = plan()
    core.set_wanted({WEB: Priority.NOW}, NOW)
    assert core.set_wanted({}, NOW) == [Forget(WEB)]
    assert core.fetched(WEB, life("1", NOW), NOW) == []
    assert not core.holds(WEB, "1")
    assert core.statuses() == []
    assert core.next_deadline() is None


def test_at_most_eight_at_once_and_the_urgent_first() -> None:
    core = plan()
    identities = [spiffe(f"a{i:02}") for i in range(20)]
    wanted = dict.fromkeys(identities, Priority.WARM_UP) | {spiffe("zz"): Priority.NOW}
    actions = core.set_wanted(wanted, NOW)
    assert len(actions) == MAX_CONCURRENT
    assert actions[0] == Fetch(spiffe("zz"))
    assert core.next_deadline() is None
    assert core.fetched(spiffe("zz"), life("1", NOW), NOW) == [Fetch(identities[7])]
    assert len(core.set_wanted({}, NOW)) == 21
    # The fetches of forgotten identities still occupy their places.
    again = core.set_wanted({DB: Priority.NOW, WEB: Priority.NOW}, NOW)
    assert again == []
    assert core.failed(identities[0], "down", NOW) == [Fetch(DB)]


def test_renewals_wait_behind_first_certificates() -> None:
    core = plan()
    held = [spiffe(f"a{i}") for i in range(8)]
    core.set_wanted(dict.fromkeys(held, Priority.NOW), NOW)
    for identity in held:
        core.fetched(identity, life("1", NOW), NOW)
    wanted = dict.fromkeys([*held, WEB], Priority.WARM_UP)
    assert core.set_wanted(wanted, NOW + 60)[0] == Fetch(WEB)


def test_a_certificate_that_came_expired_is_a_failure() -> None:
    core = plan()
    core.set_wanted({WEB: Priority.NOW}, NOW)
    assert core.fetched(WEB, life("1", NOW - 200), NOW) == []
    (status,) = core.statuses()
    assert status.state is CertificateState.FAILED
    assert "clocks" in status.last_error
    assert core.next_deadline() == NOW + 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 11), st.floats(0.1, 60))))
def test_never_more_than_eight_and_never_twice(steps: list[tuple[int, int, float]]) -> None:
    core, now = plan(), NOW
    in_flight: set[object] = set()
    identities = [spiffe(f"a{i}") for i in range(12)]
    for kind, index, delay in steps:
        now += delay
        identity = identities[index]
        if kind == 0:
            actions = core.set_wanted(dict.fromkeys(identities[index:], Priority.NOW), now)
        elif kind == 1 and identity in in_flight:
            in_flight.discard(identity)
            actions = core.fetched(identity, life("1", now), now)
        elif kind == 2 and identity in in_flight:
            in_flight.discard(identity)
            actions = core.failed(identity, "down", now)
        else:
            actions = core.on_deadline(now)
        for action in actions:
            if isinstance(action, Fetch):
                assert action.identity not in in_flight
                in_flight.add(action.identity)
        assert len(in_flight) <= MAX_CONCURRENT
