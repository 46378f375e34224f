"""Numbers that several workers share: exact under contention, and free again after a death."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from mesh.errors import ConfigError
from mesh.model.traffic import CircuitLimits, RateLimit, RateLimitKey, RetryBudget
from mesh.resilience.bandwidth import Pacer
from mesh.resilience.circuit import CircuitBreaker, Resource
from mesh.resilience.rate_limit import RateLimiter, TokenBucket
from mesh.resilience.retry_budget import RetryBudgetMeter
from waypoint.shared.select import new_memory
from waypoint.shared.table import MAX_WORKERS, SharedMemory, SharedTable

FORK = multiprocessing.get_context("fork")


@contextlib.contextmanager
def memory(workers: int = 2) -> Iterator[SharedMemory]:
    made = new_memory(workers)
    assert made is not None
    try:
        yield made
    finally:
        made.close()


def test_one_worker_shares_nothing() -> None:
    assert new_memory(1) is None
    assert new_memory(MAX_WORKERS + 1) is None


def test_a_count_is_the_sum_of_all_workers() -> None:
    with memory() as here:
        tables = [SharedTable(here.descriptor, worker) for worker in (0, 1)]
        one, other = (table.count("requests") for table in tables)
        assert one is not None
        assert other is not None
        assert [one.add(3), other.add(3), one.add(3), other.add(3), one.add(3)] == [
            *(True, True, True),
            *(False, False),
        ]
        other.sub()
        assert one.add(3)
        other.force()
        assert one.total() == other.total() == 4
        elsewhere = tables[0].count("connections")
        assert elsewhere is not None
        assert elsewhere.total() == 0
        assert tables[0].count("requests") is one


def test_what_a_dead_worker_counted_is_free_again() -> None:
    with memory() as here:
        dead, alive = (SharedTable(here.descriptor, worker).count("x") for worker in (0, 1))
        assert dead is not None
        assert alive is not None
        alive.force()
        for _ in range(5):
            dead.force()
        assert alive.total() == 6
        assert here.forget(0) == 1
        assert alive.total() == 1
        assert here.forget(0) == 0


def test_places_that_nobody_holds_are_used_again() -> None:
    with memory() as here:
        table = SharedTable(here.descriptor, 0)
        for number in range(20_000):
            count = table.count(f"service {number}")
            assert count is not None
            assert count.add(1)
        held = [count for number in range(10_000) if (count := table.count(f"held {number}"))]
        assert 2000 < len(held) <= 4096  # no room for more, and nothing breaks


def test_other_memory_is_refused() -> None:
    with memory() as here, pytest.raises(ConfigError):
        SharedTable(here.descriptor, 2)
    descriptor = os.memfd_create("other")
    try:
        os.ftruncate(descriptor, 8192)
        with pytest.raises(ConfigError):
            SharedTable(descriptor, 0)
    finally:
        os.close(descriptor)


def _hammer(descriptor: int, worker: int, most: int, pipe: Connection) -> None:
    count = SharedTable(descriptor, worker).count("x")
    assert count is not None
    worst = got = 0
    for _ in range(20_000):
        if count.add(most):
            got += 1
            worst = max(worst, count.total())
            count.sub()
    pipe.send((worst, got, count.total()))


def test_a_limit_is_never_exceeded_by_workers_that_meet() -> None:
    """`total` may count others that are just about to step back: never more than one each."""
    workers, most = 4, 2
    with memory(workers) as here:
        ours, theirs = FORK.Pipe()
        processes = [
            FORK.Process(target=_hammer, args=(here.descriptor, worker, most, theirs))
            for worker in range(workers)
        ]
        for process in processes:
            process.start()
        told = [ours.recv() for _ in processes]
        for process in processes:
            process.join(60)
        assert max(worst for worst, _, _ in told) <= most + workers - 1
        assert sum(got for _, got, _ in told) > 0
        count = SharedTable(here.descriptor, 0).count("y")
        assert count is not None
        assert SharedTable(here.descriptor, 1).count("x") is not None


def _hold(descriptor: int, worker: int, most: int, pipe: Connection) -> None:
    count = SharedTable(descriptor, worker).count("x")
    assert count is not None
    pipe.send(sum(count.add(most) for _ in range(most)))
    signal.pause()


def test_exactly_the_limit_is_let_in_and_a_killed_worker_gives_it_back() -> None:
    workers, most = 3, 1000
    with memory(workers) as here:
        ours, theirs = FORK.Pipe()
        processes = [
            FORK.Process(target=_hold, args=(here.descriptor, worker, most, theirs))
            for worker in range(1, workers)
        ]
        for process in processes:
            process.start()
        try:
            assert sum(ours.recv() for _ in processes) == most
            count = SharedTable(here.descriptor, 0).count("x")
            assert count is not None
            assert not count.add(most)
        finally:
            for process in processes:
                process.kill()
                process.join(60)
        for worker in range(1, workers):
            here.forget(worker)
        assert count.total() == 0
        assert count.add(most)


# --- buckets ------------------------------------------------------------------------------------


def test_a_bucket_is_one_for_all_and_behaves_like_a_local_one() -> None:
    with memory() as here:
        takes = [
            SharedTable(here.descriptor, worker).bucket(rate=10.0, burst=3) for worker in (0, 1)
        ]
        local, now = TokenBucket(10.0, 3.0, 1000.0), 1000.0
        for step in range(200):
            now += (0.0, 0.01, 0.07, 0.2, 0.001)[step % 5]
            allowed, remaining, wait_s = takes[step % 2](7, now)
            assert allowed == local.take(now)
            assert remaining == int(local.tokens(now) + 1e-6)
            assert wait_s == pytest.approx(local.wait_s(now), abs=1e-6)


def test_keys_have_buckets_of_their_own_and_old_ones_make_room() -> None:
    with memory() as here:
        table = SharedTable(here.descriptor, 0)
        take = table.bucket(rate=1.0, burst=1)
        assert [take(5, 1.0)[0], take(6, 1.0)[0], take(5, 1.0)[0]] == [True, True, False]
        for number in range(200_000):  # more than there is room for
            assert take(table.key(str(number)) if number < 2000 else number * 7 + 1, 2.5)[0]
        assert take(5, 10.0)[0]


def test_a_rate_limit_over_two_workers_is_exact() -> None:
    limit = RateLimit(requests=7, per_s=1.0, burst=7, key=RateLimitKey.IDENTITY)
    with memory() as here:
        one, other = (
            RateLimiter(limit, sharing=SharedTable(here.descriptor, n), workers=2, name="l")
            for n in (0, 1)
        )
        passed = [one.decide("ann", {}, 50.0).allowed for _ in range(7)]
        assert passed == [True] * 7
        refused = other.decide("ann", {}, 50.0)
        assert not refused.allowed
        assert refused.retry_after_s == pytest.approx(1 / 7, abs=1e-6)
        assert other.decide("bob", {}, 50.0).remaining == 6
        assert other.decide("ann", {}, 50.15).allowed
        assert (one.passed, other.passed, other.limited) == (7, 2, 1)


def test_a_pace_over_two_workers_is_one() -> None:
    with memory() as here:
        paces = [
            Pacer(1000, 0.0, SharedTable(here.descriptor, n).pacer("down", 1000)) for n in (0, 1)
        ]
        assert paces[0].pass_on(100, 5.0) == pytest.approx(0.1)
        assert paces[1].pass_on(100, 5.0) == pytest.approx(0.2)
        assert paces[0].pass_on(1, 9.0) == 0.0


# --- breakers -----------------------------------------------------------------------------------


def test_breakers_of_two_workers_count_together() -> None:
    limits = CircuitLimits(max_requests=3, max_endpoint_connections=2)
    with memory() as here:
        one, other = (
            CircuitBreaker(limits, SharedTable(here.descriptor, n).count, 2) for n in (0, 1)
        )
        assert [one.acquire(Resource.REQUESTS) for _ in range(4)] == [True, True, True, False]
        assert not other.acquire(Resource.REQUESTS)
        assert other.active(Resource.REQUESTS) == 3
        one.release(Resource.REQUESTS)
        assert other.acquire(Resource.REQUESTS)
        assert other.acquire(Resource.PENDING)  # has no limit
        # An endpoint's first is always allowed, so that nobody waits for ever.
        assert one.connect(0, "a")
        assert one.connect(1, "a")
        assert not one.connect(2, "a")
        assert other.connect(0, "a")
        assert not other.connect(1, "a")
        one.disconnect("a")
        one.disconnect("a")
        assert other.connect(1, "a")


def test_a_retry_budget_over_two_workers_is_one() -> None:
    budget = RetryBudget(percent=20, interval_s=10, min_per_s=0.1)
    with memory() as here:
        one, other = (
            RetryBudgetMeter(budget, 100.0, SharedTable(here.descriptor, n).count, 2)
            for n in (0, 1)
        )
        assert one.allow_retry(100.0)
        assert not other.allow_retry(100.0)  # the floor is one for both
        for _ in range(50):
            one.count_request(101.0)
        assert [other.allow_retry(101.0) for _ in range(10)].count(True) == 9
        assert not one.allow_retry(101.0)
        assert (one.refused, other.refused) == (1, 2)
        # A worker without requests is told the time: what it counted is too old to be a share of.
        other.pass_time(130.0)
        one.pass_time(130.0)
        assert [one.allow_retry(130.0), other.allow_retry(130.0)] == [True, False]
        # What a dead worker had sent is nobody's share any more.
        for _ in range(50):
            one.count_request(131.0)
        here.forget(0)
        assert [other.allow_retry(131.0) for _ in range(3)] == [True, False, False]


def test_a_retry_budget_without_room_is_each_workers_part() -> None:
    budget = RetryBudget(percent=20, interval_s=10, min_per_s=0.4)
    meter = RetryBudgetMeter(budget, 100.0, lambda _: None, 2)
    assert [meter.allow_retry(100.0) for _ in range(3)] == [True, True, False]


def test_sharing_costs_no_more_than_counting_alone() -> None:
    """Processor time, the better of several turns; the bound is wide for a busy machine."""
    limits = CircuitLimits(max_requests=1000)
    with memory() as here:
        shared = CircuitBreaker(limits, SharedTable(here.descriptor, 0).count, 2)
        alone = CircuitBreaker(limits)

        def taken_s(breaker: CircuitBreaker) -> float:
            began = time.process_time()
            for _ in range(2000):
                breaker.acquire(Resource.REQUESTS)
                breaker.release(Resource.REQUESTS)
            return time.process_time() - began

        pairs = [(taken_s(shared), taken_s(alone)) for _ in range(9)]
        assert min(s for s, _ in pairs) < 10 * min(a for _, a in pairs)
