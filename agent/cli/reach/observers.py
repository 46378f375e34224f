"""Who can be asked about traffic: agents of nodes and waypoints, here or in a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import click

from agent.admin.client import (
    NO_ANSWER,
    AdminClient,
    AgentForbidden,
    AgentNotRunning,
    AgentRefused,
)
from agent.cli.output.progress import progress
from agent.cli.output.shared import paths_of
from agent.cli.output.table import counted
from agent.cli.reach.live import SocketAt, admin
from agent.cli.reach.reach_options import ClusterChoice, chosen_cluster
from agent.paths import NodePaths, known_nodes
from mesh.errors import ConfigError, MeshnodeError
from mesh.run_files import waypoint_sockets

if TYPE_CHECKING:
    from agent.cli.reach.reach import Reach

REACH = "meshnode.reach"
"""Key in click's `meta`."""
PARALLEL = 32
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Observer:
    """One agent or waypoint; `origin` is `node/NAME` or `waypoint/NAMESPACE/NAME`.

    `pod`: its name, in a cluster.
    """

    origin: str
    client: AdminClient
    pod: str = ""

    @property
    def is_node(self) -> bool:
        return self.origin.startswith("node/")


@dataclass(slots=True)
class Answers(Generic[T]):
    """What was answered, and by whom not."""

    found: dict[str, T] = field(default_factory=dict)
    missing: dict[str, MeshnodeError] = field(default_factory=dict)

    @property
    def reasons(self) -> Mapping[str, str]:
        """Who did not answer, and why."""
        return {origin: str(error) for origin, error in self.missing.items()}


def observers(node: str | None, namespace: str = "") -> list[Observer]:
    """The node that was asked for, else all: of the cluster that was chosen, else of this machine.

    `namespace` narrows down the waypoints of a cluster, for people who may not see all.
    """
    return finder(node, namespace)()


def finder(node: str | None, namespace: str = "") -> Callable[[], list[Observer]]:
    """The same for later, and outside of click; finds anew whenever it is called."""
    context = click.get_current_context()
    elsewhere = context.find_object(SocketAt)
    choice = chosen_cluster(context)
    if choice is None:
        return lambda: local_observers(node, elsewhere)
    reach = open_reach(context, choice)

    def find() -> list[Observer]:
        with progress("looking for agents and waypoints"):
            return reach.observers(node, namespace)

    return find


def open_reach(context: click.Context, choice: ClusterChoice) -> Reach:
    """One connection for the whole command, closed at its end."""
    from agent.cli.reach.reach import Reach

    root = context.find_root()
    found = root.meta.get(REACH)
    if not isinstance(found, Reach):
        with progress("connecting to the cluster"):
            found = root.meta[REACH] = root.with_resource(Reach(choice))
    return found


def local_observers(node: str | None, elsewhere: SocketAt | None) -> list[Observer]:
    """Those of this machine; `elsewhere` is one admin socket to ask instead."""
    if elsewhere is not None:
        name = node or "here"
        return [Observer(f"node/{name}", AdminClient(name, elsewhere.path))]
    names = [node] if node is not None else known_nodes()
    found = [
        Observer(f"node/{name}", AdminClient(name, NodePaths(name).admin_socket)) for name in names
    ]
    waypoints = waypoint_sockets()
    count = Counter(name for name, _ in waypoints)
    found += [
        Observer(
            f"waypoint/{name}" if count[name] == 1 else f"waypoint/{name}/{path.stem}",
            AdminClient(name, path),
        )
        for name, path in waypoints
    ]
    return found


def agents(node: str | None) -> list[Observer]:
    """The node that was asked for, else all agents."""
    return agent_finder(node)()


def agent_finder(node: str | None) -> Callable[[], list[Observer]]:
    """The same for later. Where no agent ever ran, the host's own is asked, to say what it is."""
    find = finder(node)

    def only_agents() -> list[Observer]:
        found = [one for one in find() if one.is_node]
        return found or local_observers(paths_of(node).node, None)[:1]

    return only_agents


def one_agent(node: str | None) -> AdminClient:
    """The agent that was asked for, else the only one. Raises `ConfigError` if there are more."""
    return one_observer(node).client


def one_observer(node: str | None) -> Observer:
    """The same with its origin."""
    context = click.get_current_context()
    if chosen_cluster(context) is None:
        paths = paths_of(node)
        return Observer(f"node/{paths.node}", admin(paths))
    found = agents(node)
    if len(found) > 1:
        names = "|".join(one.origin.removeprefix("node/") for one in found)
        raise ConfigError(f"the cluster has several agents: choose one with --node {names}")
    return found[0]


def one_waypoint(name: str) -> AdminClient:
    """The waypoint NAMESPACE/NAME, or one of its pods, NAMESPACE/NAME/POD; all pods of a waypoint
    work with the same objects. Raises `ConfigError` with the names that there are."""
    there = [one for one in observers(None, name.partition("/")[0]) if not one.is_node]
    wanted = f"waypoint/{name}"
    found = [one for one in there if one.origin == wanted or one.origin.startswith(f"{wanted}/")]
    if not found:
        names = ", ".join(one.origin.removeprefix("waypoint/") for one in there) or "none"
        raise ConfigError(f"there is no waypoint {name} that can be asked; there are: {names}")
    return found[0].client


def any_agent(node: str | None, question: Callable[[AdminClient], T]) -> T:
    """The answer of the agent that was asked for; of a cluster's agents, of the first to have one:
    all know the same objects. Raises what the first one raised."""
    context = click.get_current_context()
    if chosen_cluster(context) is None:
        return question(admin(paths_of(node)))
    failure: MeshnodeError = AgentNotRunning("the cluster has no agent")
    for count, one in enumerate(agents(node)):
        try:
            return question(one.client)
        except (AgentNotRunning, AgentForbidden) as error:
            failure = failure if count else error
        except AgentRefused as error:
            if error.code != NO_ANSWER:
                raise
            failure = failure if count else error
    raise failure


def ask(asked: Sequence[Observer], question: Callable[[AdminClient], T]) -> Answers[T]:
    """Ask all at once; raises what one of them raised if nobody has an answer."""
    if not asked:
        raise AgentNotRunning("no agent is running on this machine")
    answers: Answers[T] = Answers()
    text = f"asking {counted(len(asked), 'agent')} and waypoints"
    with progress(text), ThreadPoolExecutor(min(len(asked), PARALLEL)) as pool:
        futures = [(one.origin, pool.submit(question, one.client)) for one in asked]
        for origin, future in futures:
            try:
                answers.found[origin] = future.result()
            except MeshnodeError as error:
                answers.missing[origin] = error
    if not answers.found:
        # Who answers that there is no such thing tells more than who is not there.
        raise min(answers.missing.values(), key=lambda error: isinstance(error, AgentNotRunning))
    return answers


def tell_missing(answers: Answers[T]) -> None:
    """Say on standard error who did not answer: the numbers lack their share."""
    for origin, error in answers.missing.items():
        click.echo(f"meshnode: {origin} is missing: {error}", err=True)
