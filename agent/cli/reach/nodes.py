"""Answers of one node, or of all that can be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.admin.client import AdminClient
from agent.cli.reach.observers import agent_finder, ask, tell_missing

T = TypeVar("T")
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes(Generic[T]):
    """What several nodes answered. `missing`: who did not answer, and why."""

    schema_version: int = SCHEMA_VERSION
    nodes: tuple[T, ...]
    missing: Mapping[str, str]


def node_answers(
    node: str | None, question: Callable[[AdminClient], T]
) -> Callable[[], T | Nodes[T]]:
    """Ask the node, or all: the answer itself where there is one agent to ask, else `Nodes`."""
    asked = agent_finder(node)

    def find() -> T | Nodes[T]:
        agents = asked()
        heard = ask(agents, question)
        tell_missing(heard)
        if len(agents) == 1:
            return next(iter(heard.found.values()))
        return Nodes(nodes=tuple(heard.found.values()), missing=heard.reasons)

    return find


def as_list(found: T | Nodes[T]) -> tuple[T, ...]:
    """The answers, however many."""
    return found.nodes if isinstance(found, Nodes) else (found,)


def missing_of(found: object) -> Mapping[str, str]:
    """Who did not answer."""
    return found.missing if isinstance(found, Nodes) else {}
