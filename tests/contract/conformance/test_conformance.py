"""The conformance table through the data path."""

from __future__ import annotations

import pytest

from tests.contract.conformance.document import DOCUMENT, everything_passes, render
from tests.contract.conformance.run import Wire, run, wires
from tests.contract.conformance.upstream import NOT_APPLICABLE
from tests.unit.mesh.routing.conformance.model import Case
from tests.unit.mesh.routing.conformance.table import WIRE_CASES

RUNS = [
    pytest.param(case, wire, id=f"{case.name}-{wire}")
    for case in WIRE_CASES
    for wire in wires(case)
]


@pytest.mark.parametrize(("case", "wire"), RUNS)
def test_case(case: Case, wire: Wire) -> None:
    run(case, wire)


def test_the_document_says_what_the_suite_runs() -> None:
    """Each case is a test of its own, so the document holds when it says that all pass."""
    assert DOCUMENT.read_text() == render(everything_passes()), "run `make conformance`"


def test_no_name_is_both_run_and_left_out() -> None:
    assert not {case.name for case in WIRE_CASES} & set(NOT_APPLICABLE)
