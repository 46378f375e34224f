"""The conformance table through the data path."""

from __future__ import annotations

import pytest

from tests.contract.conformance.run import Wire, run, wires
from tests.unit.mesh.routing.conformance.model import Case
from tests.unit.mesh.routing.conformance.table import CASES

RUNS = [
    pytest.param(case, wire, id=f"{case.name}-{wire}") for case in CASES for wire in wires(case)
]


@pytest.mark.parametrize(("case", "wire"), RUNS)
def test_case(case: Case, wire: Wire) -> None:
    run(case, wire)
