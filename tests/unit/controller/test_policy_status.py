"""What policies are told, from a snapshot's problems."""

from __future__ import annotations

from controller.status.desired import ObjectName, policy_status
from mesh.model.snapshot import MeshSnapshot, Problem


def problem(subject: str) -> Problem:
    return Problem(where=subject, subject=subject, message="cannot be read")


def test_a_kind_that_cannot_be_read_is_no_object() -> None:
    problems = (problem("AuthorizationPolicy"), problem("AuthorizationPolicy shop/p"))
    found = policy_status(MeshSnapshot(revision=1, problems=problems))
    assert list(found) == [ObjectName(kind="AuthorizationPolicy", namespace="shop", name="p")]
