"""Playbooks for the judge of endpoints."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.traffic import OutlierDetection
from mesh.resilience.outlier import Outcome, OutlierDetector, outcome_of

RULES = OutlierDetection(
    consecutive_failures=3, base_ejection_s=1.0, max_ejection_s=8.0, jitter=0.0
)


def judge(rules: OutlierDetection = RULES, endpoints: str = "abcd") -> OutlierDetector[str]:
    """A judge over endpoints named by letters."""
    detector: OutlierDetector[str] = OutlierDetector(rules, Random(1))
    detector.keep(endpoints)
    return detector


BAD, OK = Outcome.SERVER_ERROR, Outcome.OK


def result(failed: bool) -> Outcome:
    """A result."""
    return BAD if failed else OK


def fail(detector: OutlierDetector[str], endpoint: str, times: int, now: float) -> list[bool]:
    """Report failures in a row."""
    return [detector.report(endpoint, BAD, now) for _ in range(times)]


def test_failures_in_a_row_eject() -> None:
    detector = judge()
    assert fail(detector, "a", 2, 0.0) == [False, False]
    detector.report("a", OK, 0.0)
    assert fail(detector, "a", 3, 0.0) == [False, False, True]
    assert detector.ejected(0.5) == ["a"]


def test_one_probe_brings_it_back() -> None:
    detector = judge()
    fail(detector, "a", 3, 0.0)
    assert not detector.is_admitted("a", 0.99)
    assert detector.is_admitted("a", 1.0)
    assert detector.start("a", 1.0)
    assert not detector.is_admitted("a", 1.1)
    assert not detector.report("a", OK, 1.2, probe=True)
    assert detector.is_admitted("a", 1.2)
    assert fail(detector, "a", 2, 1.3) == [False, False]


def test_failed_probes_double_the_wait_up_to_the_maximum() -> None:
    detector, now = judge(), 0.0
    fail(detector, "a", 3, now)
    for wait in (1.0, 2.0, 4.0, 8.0, 8.0):
        assert not detector.is_admitted("a", now + wait - 0.01)
        now += wait
        assert detector.is_admitted("a", now)
        assert detector.start("a", now)
        assert detector.report("a", BAD, now, probe=True)


def test_late_results_do_not_count_as_a_probe() -> None:
    detector = judge()
    fail(detector, "a", 3, 0.0)
    assert not detector.report("a", BAD, 0.1)
    assert not detector.report("a", OK, 0.2)
    assert not detector.is_admitted("a", 0.9)
    assert detector.start("a", 1.0)
    assert not detector.report("a", OK, 1.1)  # of a request that began before the ejection
    assert not detector.is_admitted("a", 1.2)


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
    assert not any(detector.report("a", result(item), 0.0) for item in results)
    assert detector.report("a", BAD, 0.0)
    for item in (False, True, False):
        detector.report("b", result(item), 0.0)
    assert not detector.report("b", BAD, 11.0)


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
    assert not detector.report("a", BAD, 0.1)


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
        probe = detector.is_admitted(endpoint, now) and detector.start(endpoint, now)
        detector.report(endpoint, result(failed), now, probe=probe)
        assert len(detector.ejected(now)) <= 2


def test_a_probe_without_a_result_makes_room_for_the_next() -> None:
    detector = judge()
    fail(detector, "a", 3, 0.0)
    assert detector.start("a", 1.0)
    detector.abandon("a")
    assert detector.is_admitted("a", 1.1)


def test_kinds_of_failure_have_judges_of_their_own() -> None:
    rules = OutlierDetection(
        consecutive_failures=0, consecutive_gateway_failures=2, consecutive_local_failures=2
    )
    detector = judge(rules)
    statuses = [(500, False), (503, False), (500, False), (502, False), (504, True)]
    for status, ejected in statuses:
        assert detector.report("a", outcome_of(status), 0.0) is ejected
    detector = judge(OutlierDetection(consecutive_failures=0, consecutive_local_failures=2))
    assert not any(detector.report("b", outcome_of(503), 0.0) for _ in range(9))
    assert not detector.report("b", Outcome.LOCAL_FAILURE, 0.0)
    assert not detector.report("b", outcome_of(200), 0.0)
    assert not detector.report("b", Outcome.LOCAL_FAILURE, 0.0)
    assert detector.report("b", Outcome.LOCAL_FAILURE, 0.0)


def test_in_a_panic_ejections_are_ignored() -> None:
    rules = OutlierDetection(
        consecutive_failures=1, max_ejected_percent=100, panic_percent=50, jitter=0
    )
    detector = judge(rules)
    fail(detector, "a", 1, 0.0)
    fail(detector, "b", 1, 0.0)
    assert detector.admitted("abcd", 0.5) == ["c", "d"]
    fail(detector, "c", 1, 0.0)
    assert detector.admitted("abcd", 0.5) == "abcd"
    assert detector.ejections == 3
