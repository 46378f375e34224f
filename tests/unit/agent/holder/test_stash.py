"""The stock of sockets: what is requested, what is kept, what goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.holder.protocol import MAX_VEND, Family, SocketKind
from agent.holder.stash import Stash, StashKey

KEY = StashKey("pod", Family.V4, SocketKind.OUTBOUND)
OTHER = StashKey("other", Family.V6, SocketKind.INBOUND)


def refill(stash: Stash[int], key: StashKey = KEY) -> int:
    """Deliver all that is to be requested; returns how many that was."""
    count = stash.to_request(key)
    assert stash.delivered(key, count, list(range(count))) == []
    return count


def test_first_connection_orders_a_small_batch() -> None:
    stash: Stash[int] = Stash()
    assert stash.take(KEY) is None
    assert stash.to_request(KEY) == 2
    assert stash.to_request(KEY) == 0, "already on its way"


def test_one_who_waits_comes_on_top_of_the_batch() -> None:
    stash: Stash[int] = Stash()
    assert stash.take(KEY) is None
    stash.wait(KEY)
    assert refill(stash) == 3
    assert stash.take(KEY) is not None
    stash.stop_waiting(KEY)
    assert len(stash) == 2
    assert stash.to_request(KEY) == 0


def test_batch_doubles_when_the_stock_runs_dry_up_to_the_limit() -> None:
    stash: Stash[int] = Stash()
    requested = []
    for _ in range(6):
        while stash.take(KEY) is not None:
            pass
        requested.append(refill(stash))
    assert requested == [2, 4, 8, 16, 32, 32]


def test_refill_starts_at_half_of_the_batch() -> None:
    stash: Stash[int] = Stash()
    for _ in range(3):
        stash.take(KEY)
    assert refill(stash) == 8
    for _ in range(3):
        stash.take(KEY)
        assert stash.to_request(KEY) == 0
    stash.take(KEY)
    assert stash.to_request(KEY) == 4


def test_burst_is_ordered_in_few_requests() -> None:
    stash: Stash[int] = Stash()
    requests = []
    for _ in range(100):
        assert stash.take(KEY) is None
        stash.wait(KEY)
        if count := stash.to_request(KEY):
            requests.append(count)
    assert sum(requests) >= 100
    assert len(requests) <= 12
    assert max(requests) <= MAX_VEND


def test_idle_pod_ends_with_nothing() -> None:
    stash: Stash[int] = Stash()
    for _ in range(8):
        stash.take(KEY)
    refill(stash)
    assert len(stash) == MAX_VEND
    sizes = []
    for _ in range(7):
        stash.tick()
        sizes.append(len(stash))
    assert sizes == [16, 8, 4, 2, 1, 0, 0]


def test_slow_pod_keeps_a_small_batch() -> None:
    stash: Stash[int] = Stash()
    for _ in range(8):
        stash.take(KEY)
    refill(stash)
    for _ in range(6):
        stash.take(KEY)
        stash.tick()
        refill(stash)
    assert len(stash) == 2


def test_tick_keeps_what_somebody_waits_for() -> None:
    stash: Stash[int] = Stash()
    stash.take(KEY)
    stash.wait(KEY)
    count = stash.to_request(KEY)
    for _ in range(9):
        assert stash.tick() == []
    assert stash.delivered(KEY, count, [1, 2, 3]) == []
    assert stash.take(KEY) == 1


def test_closed_pod_gives_back_its_items_and_refuses_late_ones() -> None:
    stash: Stash[int] = Stash()
    stash.take(KEY)
    stash.delivered(KEY, stash.to_request(KEY), [1, 2])
    stash.take(OTHER)
    stash.delivered(OTHER, stash.to_request(OTHER), [7])
    assert stash.forget("pod") == [1, 2]
    assert stash.delivered(KEY, 2, [3, 4]) == [3, 4]
    assert stash.take(OTHER) == 7


def test_replaced_pod_gives_back_its_items_and_keeps_its_orders() -> None:
    stash: Stash[int] = Stash()
    stash.take(KEY)
    stash.delivered(KEY, stash.to_request(KEY), [1, 2])
    stash.wait(KEY)
    assert stash.drain("pod") == [1, 2]
    assert stash.delivered(KEY, 0, [3]) == []
    assert stash.take(KEY) == 3


def test_clear_returns_everything() -> None:
    stash: Stash[int] = Stash()
    for key in (KEY, OTHER):
        stash.take(key)
        refill(stash, key)
    assert sorted(stash.clear()) == [0, 0, 1, 1]
    assert len(stash) == 0


def test_unknown_key_orders_nothing() -> None:
    stash: Stash[int] = Stash()
    stash.stop_waiting(KEY)
    assert stash.to_request(KEY) == 0


@given(st.lists(st.sampled_from(["take", "order", "deliver", "fail", "tick", "forget"])))
def test_every_item_is_accounted_for(steps: list[str]) -> None:
    stash: Stash[int] = Stash()
    orders: list[int] = []
    made = 0
    gone: list[int] = []
    for step in steps:
        if step == "take":
            item = stash.take(KEY)
            gone += [] if item is None else [item]
        elif step == "order":
            count = stash.to_request(KEY)
            assert 0 <= count <= MAX_VEND
            orders += [count] if count else []
        elif step == "deliver" and orders:
            count = orders.pop(0)
            gone += stash.delivered(KEY, count, list(range(made, made + count)))
            made += count
        elif step == "fail" and orders:
            gone += stash.delivered(KEY, orders.pop(0), [])
        elif step == "tick":
            gone += stash.tick()
        elif step == "forget":
            gone += stash.forget("pod")
    gone += stash.clear()
    assert sorted(gone) == list(range(made))
