"""Our part of a status beside that of others."""

from __future__ import annotations

from controller.status.merge import MAX_PARENTS, merge_conditions, merge_parents
from mesh.model.routing import ParentRef
from mesh.routing.status import Condition, ParentStatus

NOW, BEFORE = "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"
OURS = "meshnode.io/waypoint-controller"


def condition(
    kind: str = "Accepted", *, status: bool = True, reason: str = "Accepted", generation: int = 2
) -> Condition:
    return Condition(
        type=kind, status=status, reason=reason, message="m", observed_generation=generation
    )


def stored(
    kind: str = "Accepted", status: str = "True", generation: int = 1, reason: str = "Accepted"
) -> dict[str, object]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": "m",
        "observedGeneration": generation,
        "lastTransitionTime": BEFORE,
    }


def parent(name: str, *conditions: Condition) -> ParentStatus:
    ref = ParentRef(name=name, namespace="shop")
    return ParentStatus(parent=ref, conditions=conditions or (condition(),))


def test_the_time_is_that_of_the_last_change_of_the_status() -> None:
    [same] = merge_conditions([stored()], [condition(reason="Other")], NOW)
    assert (same["lastTransitionTime"], same["reason"]) == (BEFORE, "Other")
    assert same["observedGeneration"] == 2
    [other] = merge_conditions([stored(status="False")], [condition()], NOW)
    assert other["lastTransitionTime"] == NOW


def test_what_is_newer_than_what_we_know_and_what_is_not_ours_stays() -> None:
    newer, foreign = stored(generation=3), stored("Theirs")
    assert merge_conditions([newer, foreign], [condition(status=False)], NOW) == [newer, foreign]


def test_what_does_not_hold_any_more_goes() -> None:
    known = [stored("PartiallyInvalid"), stored()]
    found = merge_conditions(known, [condition()], NOW, drop=["PartiallyInvalid"])
    assert [item["type"] for item in found] == ["Accepted"]


def test_a_status_of_nonsense_is_replaced() -> None:
    assert [item["type"] for item in merge_conditions("nonsense", [condition()], NOW)] == [
        "Accepted"
    ]
    assert len(merge_parents({"a": 1}, [parent("api")], OURS, NOW)) == 1


def test_stale_entries_of_ours_go_and_entries_of_others_stay() -> None:
    foreign = {"controllerName": "example.com/edge", "parentRef": {"name": "edge"}}
    first = merge_parents([foreign], [parent("old"), parent("api")], OURS, BEFORE)
    assert [item["controllerName"] for item in first] == ["example.com/edge", OURS, OURS]
    again = merge_parents(first, [parent("api")], OURS, NOW)
    assert again == [foreign, first[2]]


def test_there_is_room_for_thirty_two() -> None:
    foreign = [{"controllerName": f"example.com/{number}"} for number in range(30)]
    found = merge_parents(foreign, [parent(f"s{n}") for n in range(5)], OURS, NOW)
    assert len(found) == MAX_PARENTS
    assert found[:30] == foreign
