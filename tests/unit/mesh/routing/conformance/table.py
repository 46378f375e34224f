"""All cases, in one row."""

from __future__ import annotations

from tests.unit.mesh.routing.conformance.connections import CASES as CONNECTION_CASES
from tests.unit.mesh.routing.conformance.filters import CASES as FILTER_CASES
from tests.unit.mesh.routing.conformance.matching import CASES as MATCHING_CASES
from tests.unit.mesh.routing.conformance.redirects import CASES as REDIRECT_CASES
from tests.unit.mesh.routing.conformance.references import CASES as REFERENCE_CASES
from tests.unit.mesh.routing.conformance.wire import CASES as ONLY_WIRE_CASES

CASES = (*MATCHING_CASES, *FILTER_CASES, *REDIRECT_CASES, *REFERENCE_CASES)
"""What the pure core can run."""

WIRE_CASES = (*CASES, *ONLY_WIRE_CASES, *CONNECTION_CASES)
"""What real bytes can run."""
