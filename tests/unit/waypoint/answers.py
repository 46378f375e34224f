"""Servers that answer as told, and what is left of a request."""

from __future__ import annotations

from collections.abc import Callable

from mesh.resilience.circuit import Resource
from tests.unit.waypoint.scene import Request, Say, Scene


def first_time(bad: Say) -> Callable[[Request], Say]:
    """Fail once, then serve."""
    said: list[Say] = [bad]
    return lambda _: said.pop() if said else Say()


def always(said: Say) -> Callable[[Request], Say]:
    """Do the same every time."""
    return lambda _: said


def popping(says: list[Say]) -> Callable[[Request], Say]:
    """Do one after the other, the last first."""
    return lambda _: says.pop()


def marks(here: Scene) -> tuple[int, str, str]:
    """Status, flag and details of the newest record."""
    record = here.records[-1]
    return record.status, str(record.flag), record.details


def leaks(here: Scene) -> bool:
    """Whether anything is still counted."""
    for _, protection in here.protections.active():
        breaker = protection.cluster.breaker
        if any(breaker.active(kind) for kind in Resource if kind is not Resource.CONNECTIONS):
            return True
        if any(target.active for target in protection.cluster.endpoints):
            return True
    return False


def failing(status: int = 503) -> Say:
    """Answer with an error."""
    return Say(status=status, body=b"no")


def details(here: Scene) -> tuple[str, str]:
    """Flag and details of the newest record."""
    return str(here.records[-1].flag), here.records[-1].details
