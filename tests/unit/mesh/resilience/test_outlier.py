"""Playbooks for the judge of endpoints."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.traffic import OutlierDetection
from mesh.resilience.outlier import OutlierDetector

RULES = OutlierDetection(
    consecutive_failures=3, base_ejection_s=1.0, max_ejection_s=8.0, jitter=0.0
)


def judge(rules: OutlierDetection = RULES, endpoints: str = "abcd") -> OutlierDetector[str]:
    """A judge over endpoints named by letters."""
    detector: OutlierDetector[str] = OutlierDetector(rules, Random(1))
    detector.keep(endpoints)
    return detector


def fail(detector: OutlierDetector[str], endpoint: str, times: int, now: float) -> list[bool]:
    """Report failures in a row."""
    return [detector.report(endpoint, failed=True, now=now) for _ in range(times)]


def test_failures_in_a_row_eject() -> None:
    detector = judge()
    assert fail(detector, "a", 2, 0.0) == [False, False]
    detector.report("a", failed=False, now=0.0)
    assert fail(detector, "a", 3, 0.0) == [False, False, True]
    assert detector.ejected(0.5) == ["a"]


def test_one_probe_brings_it_back() -> None:
    detector = judge()
    fail(detector, "a", 3, 0.0)
    assert not detector.is_admitted("a", 0.99)
    assert detector.is_admitted("a", 1.0)
    detector.start("a", 1.0)
    assert not detector.is_admitted("a", 1.1)
    assert not detector.report("a", failed=False, now=1.2)
    assert detector.is_admitted("a", 1.2)
    assert fail(detector, "a", 2, 1.3) == [False, False]


def test_failed_probes_double_the_wait_up_to_the_maximum() -> None:
    detector, now = judge(), 0.0
    fail(detector, "a", 3, now)
    for wait in (1.0, 2.0, 4.0, 8.0, 8.0):
        assert not detector.is_admitted("a", now + wait - 0.01)
        now += wait
        assert detector.is_admitted("a", now)
        detector.start("a", now)
        assert detector.report("a", failed=True, now=now)


def test_late_results_do_not_count_as_a_probe() -> None:
    detector = judge()
    fail(detector, "a", 3, 0.0)
    assert not detector.report("a", failed=True, now=0.1)
    assert not detector.report("a", failed=False, now=0.2)
    assert not detector.is_admitted("a", 0.9)


def test_a_probe_that_never_reports_is_replaced() -> None:
    detector = judge()
    fail(detector, "a", 3, 0.0)
    detector.start("a", 1.0)
    assert not detector.is_admitted("a", 8.9)
    assert detector.is_admitted("a", 9.0)


def test_a_share_of_failures_ejects() -> None:
    rules = OutlierDetection(
        consecutive_failures=0, failure_percent=50, min_requests=4, window_s=10
    )
    detector = judge(rules)
    results = [False, True, False]
    assert not any(detector.report("a", failed=item, now=0.0) for item in results)
    assert detector.report("a", failed=True, now=0.0)
    for item in (False, True, False):
        detector.report("b", failed=item, now=0.0)
    assert not detector.report("b", failed=True, now=11.0)


def test_one_of_two_may_go_and_never_the_last() -> None:
    detector = judge(endpoints="ab")
    assert fail(detector, "a", 3, 0.0)[-1]
    assert not any(fail(detector, "b", 10, 0.0))
    assert not any(fail(judge(endpoints="a"), "a", 10, 0.0))


def test_forgotten_endpoints() -> None:
    detector = judge()
    fail(detector, "a", 3, 0.0)
    detector.keep("ab")
    assert detector.ejected(0.1) == ["a"]
    detector.keep("bc")
    assert detector.is_admitted("a", 0.1)
    assert not detector.report("a", failed=True, now=0.1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.booleans(), st.sampled_from([0.0, 0.3, 2.0])),
        max_size=80,
    )
)
def test_half_of_the_endpoints_always_serve(events: list[tuple[str, bool, float]]) -> None:
    detector, now = judge(), 0.0
    for endpoint, failed, gap in events:
        now += gap
        if detector.is_admitted(endpoint, now):
            detector.start(endpoint, now)
        detector.report(endpoint, failed=failed, now=now)
        assert len(detector.ejected(now)) <= 2
