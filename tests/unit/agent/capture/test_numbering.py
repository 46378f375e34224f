from __future__ import annotations

import pytest

from agent.capture.numbering import Numbering, ServicePortKey, dump_numbering, parse_numbering
from mesh.errors import ConfigError
from mesh.model.workload import ServiceKey, WorkloadUid

A, B, C = (WorkloadUid(f"pod/ns/{name}") for name in "abc")
SVC = ServicePortKey(ServiceKey("ns/svc"), 80, 4)


def test_numbers_stay_and_are_never_reused() -> None:
    first = Numbering().extended([A, B], [SVC])
    assert sorted([*first.workloads.values(), *first.services.values()]) == [1, 2, 3]
    second = first.extended([B, C], [SVC])
    assert second.workloads[B] == first.workloads[B]
    assert second.services == first.services
    assert second.workloads[C] == 4
    third = second.extended([A, B, C], [SVC])
    assert third.workloads[A] == 5


def test_survives_being_saved() -> None:
    numbering = Numbering().extended([A, B], [SVC])
    assert parse_numbering(dump_numbering(numbering)) == numbering
    assert numbering.workload_names() == {1: A, 2: B}
    assert numbering.service_names() == {3: SVC}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"next": 1}', '{"next": 1, "workloads": [], "services": []}', "null"],
)
def test_broken_file_is_a_clear_error(text: str) -> None:
    with pytest.raises(ConfigError, match="workload numbers"):
        parse_numbering(text)


def test_counter_that_lags_behind_is_put_right() -> None:
    text = '{"next": 1, "workloads": {"pod/ns/a": 9}, "services": []}'
    assert parse_numbering(text).next_number == 10
