"""Who on this machine can be asked about traffic: agents of nodes, and waypoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import click

from agent.admin.client import AdminClient, AgentNotRunning
from agent.cli.live import SocketAt
from agent.paths import NodePaths, known_nodes
from mesh.errors import MeshnodeError
from mesh.run_files import waypoint_sockets

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Observer:
    """One agent or waypoint; `origin` is `node/NAME` or `waypoint/NAMESPACE/NAME`."""

    origin: str
    client: AdminClient

    @property
    def is_node(self) -> bool:
        return self.origin.startswith("node/")


@dataclass(slots=True)
class Answers(Generic[T]):
    """What was answered, and by whom not."""

    found: dict[str, T] = field(default_factory=dict)
    missing: dict[str, MeshnodeError] = field(default_factory=dict)


def observers(node: str | None) -> list[Observer]:
    """The node that was asked for, else all nodes of this machine; and all its waypoints."""
    return find_observers(node, click.get_current_context().find_object(SocketAt))


def find_observers(node: str | None, elsewhere: SocketAt | None) -> list[Observer]:
    """The same outside of click; `elsewhere` is one admin socket to ask instead."""
    if elsewhere is not None:
        name = node or "here"
        return [Observer(f"node/{name}", AdminClient(name, elsewhere.path))]
    names = [node] if node is not None else known_nodes()
    found = [
        Observer(f"node/{name}", AdminClient(name, NodePaths(name).admin_socket)) for name in names
    ]
    found += [
        Observer(f"waypoint/{name}", AdminClient(name, path)) for name, path in waypoint_sockets()
    ]
    return found


def ask(asked: Sequence[Observer], question: Callable[[AdminClient], T]) -> Answers[T]:
    """Ask all at once; raises what the first one raised if nobody answers."""
    if not asked:
        raise AgentNotRunning("no agent is running on this machine")
    answers: Answers[T] = Answers()
    with ThreadPoolExecutor(min(len(asked), 16)) as pool:
        futures = [(one.origin, pool.submit(question, one.client)) for one in asked]
        for origin, future in futures:
            try:
                answers.found[origin] = future.result()
            except MeshnodeError as error:
                answers.missing[origin] = error
    if not answers.found:
        raise next(iter(answers.missing.values()))
    return answers


def tell_missing(answers: Answers[T]) -> None:
    """Say on standard error who did not answer: the numbers lack their share."""
    for origin, error in answers.missing.items():
        click.echo(f"meshnode: {origin} is missing: {error}", err=True)
