"""The conformance table, run on the pure core."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from mesh.model.routing import RouteKey
from mesh.model.snapshot import MeshSnapshot, Severity
from mesh.model.workload import ServiceKey
from mesh.routing.message import RequestFacts, RequestHead, ResponseHead, fold_headers
from mesh.routing.path import PathRules, normalize_path
from mesh.routing.plan import Answer, Forward, Plan, finish_response, make_plan
from mesh.routing.status import route_statuses
from mesh.routing.table import RouteTable
from tests.unit.mesh.routing import build
from tests.unit.mesh.routing.conformance.model import NAMESPACE, Ask, Case, Want
from tests.unit.mesh.routing.conformance.table import CASES


def read(case: Case) -> MeshSnapshot:
    """Read the case's objects; nothing in them may be unreadable."""
    snapshot = build.read(case.objects)
    assert [item for item in snapshot.problems if item.severity is Severity.ERROR] == []
    return snapshot


def ask(table: RouteTable, request: Ask, random: Random) -> Plan:
    """Put a request to the core, as the data path does."""
    path, mark, query = request.path.partition("?")
    head = RequestHead(
        method=request.method,
        path=normalize_path(path, PathRules()),
        authority=request.host,
        query=query if mark else None,
        headers=tuple((name.lower(), value) for name, value in request.headers),
    )
    service = ServiceKey(f"{NAMESPACE}/{request.service}")
    facts = RequestFacts(
        service=service, port=request.port, caller_namespace=request.caller, head=head
    )
    return make_plan(table, facts, random)


def check(plan: Plan, request: Ask, want: Want) -> None:
    """Compare what came of a request with what must."""
    match plan:
        case Answer():
            backend, response = "", plan.head
        case Forward():
            backend = plan.service.removeprefix(f"{NAMESPACE}/")
            response = finish_response(plan, ResponseHead(status=200, headers=request.reply))
            check_sent(plan, want)
    assert backend == want.backend
    assert response.status == want.status
    got = fold_headers(response.headers)
    assert {name: got.get(name) for name in want.headers} == dict(want.headers)
    assert not set(want.unset) & set(got)


def check_sent(plan: Forward, want: Want) -> None:
    """Compare what the backend gets."""
    sent = fold_headers(plan.head.headers)
    assert want.path in (None, plan.head.target)
    assert want.host in (None, plan.head.authority)
    assert {name: sent.get(name) for name in want.sent} == dict(want.sent)
    assert not set(want.absent) & set(sent)
    copies = tuple(copy.to.service.removeprefix(f"{NAMESPACE}/") for copy in plan.copies)
    assert copies == want.mirrors
    assert all(copy.head == plan.head for copy in plan.copies)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    snapshot = read(case)
    table = RouteTable.compile(snapshot, grants_required=case.grants)
    random = Random(case.name)
    for request, want in case.exchanges:
        check(ask(table, request, random), request, want)
    for share in case.shares:
        counts: Counter[str] = Counter()
        for _ in range(share.requests):
            plan = ask(table, share.ask, random)
            if share.of_mirrors:
                assert isinstance(plan, Forward)
                counts.update(copy.to.service for copy in plan.copies)
            else:
                counts[plan.service if isinstance(plan, Forward) else "answer"] += 1
        for name, percent in share.percent.items():
            key = name if name == "answer" else f"{NAMESPACE}/{name}"
            assert abs(100 * counts[key] / share.requests - percent) <= share.tolerance
    statuses = route_statuses(snapshot, grants_required=case.grants)
    for state in case.states:
        (parent,) = statuses[RouteKey(state.route)]
        found = parent.condition(state.type)
        assert found is not None
        assert (found.status, found.reason) == (state.status, state.reason)
        assert state.generation in (0, found.observed_generation)


def test_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
