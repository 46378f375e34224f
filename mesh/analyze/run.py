"""All checks over a set of objects."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.analyze.checks import CHECKS
from mesh.analyze.finding import Finding, of_problem
from mesh.analyze.mesh import AnalyzedMesh
from mesh.model.snapshot import Severity
from mesh.sources.objects import ObjectSet
from mesh.state.reducer import reduce


def analyze(objects: ObjectSet) -> list[Finding]:
    """Find everything that is wrong; errors first, then by place."""
    mesh = AnalyzedMesh(objects, reduce(objects, None))
    found: Iterable[Finding] = [
        *map(of_problem, mesh.snapshot.problems),
        *(item for check in CHECKS for item in check(mesh)),
    ]
    return sorted(found, key=_order)


def _order(item: Finding) -> tuple[bool, str, str, str]:
    return item.severity is not Severity.ERROR, item.where, item.code, item.message
