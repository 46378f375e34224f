"""What was read of every object, kept so that a change costs what it changes.

Kinds of which a cluster has many are followed one by one; the others (settings, namespaces,
policies, routes) are read again as a whole whenever one of them changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mesh.model.codes import Code
from mesh.model.snapshot import MeshSettings, MeshSnapshot, Problem
from mesh.model.workload import ServiceKey, WorkloadUid
from mesh.sources.objects import NamespaceObject, SourceObject
from mesh.state.context import Context
from mesh.state.difference import difference
from mesh.state.members import Members
from mesh.state.policies import Policies, read_policies
from mesh.state.routes import Routing, read_routing
from mesh.state.service_set import ServiceSet
from mesh.state.settings import read_settings
from mesh.state.waypoints import namespaces_asking, read_waypoints

_MEMBERS = frozenset({"Pod", "Workload"})
_SERVICES = frozenset({"Service", "EndpointSlice"})
_ACCOUNTS = frozenset({"ServiceAccount"})
_MANY = _MEMBERS | _SERVICES | _ACCOUNTS

Objects = Sequence[SourceObject]


@dataclass(slots=True)
class Few:
    """What was made of the kinds that are few.

    Attributes:
        objects: all of them; `chosen`: without duplicates.
    """

    objects: Objects = ()
    chosen: Objects = ()
    duplicates: tuple[Problem, ...] = ()
    settings: MeshSettings = field(default_factory=MeshSettings)
    settings_problems: tuple[Problem, ...] = ()
    waypoint_problems: tuple[Problem, ...] = ()
    policies: Policies = field(default_factory=Policies)
    policy_problems: tuple[Problem, ...] = ()
    routing: Routing = field(default_factory=Routing)
    routing_problems: tuple[Problem, ...] = ()


class NameClash(Exception):
    """Two objects have one name: which of them counts depends on the order of all."""


class Memory:
    """What is known of every object. `take` follows the objects; after an error it is of no use.

    Args:
        previous: whose values are kept where they are equal.
    """

    def __init__(self, previous: MeshSnapshot | None) -> None:
        self._objects: Objects = ()
        self._context = Context()
        self._duplicates: tuple[Problem, ...] = ()
        self._waypoints: Mapping[ServiceKey, str | None] = {}
        self.is_fresh = True
        self.members = Members(previous)
        self.services = ServiceSet(self.members, previous)
        self.few = Few()

    @property
    def problems(self) -> Iterable[Problem]:
        """What is wrong, in the order in which things are read."""
        few = self.few
        return (
            *self._duplicates,
            *few.duplicates,
            *few.settings_problems,
            *few.waypoint_problems,
            *self.members.problems,
            *self.services.problems,
            *few.policy_problems,
            *few.routing_problems,
        )

    def take(self, objects: Objects, duplicates: tuple[Problem, ...] = ()) -> set[WorkloadUid]:
        """Follow the objects; return the uids of workloads that came, went or changed.

        Raises `NameClash`.
        """
        change = difference(self._objects, objects)
        self._objects, self._duplicates = objects, duplicates
        again: set[WorkloadUid] = set()
        relabelled: set[str] = set()
        few_changed = self.is_fresh or not change.moved_kinds <= _MANY
        if few_changed:
            few_changed = self._take_few(objects, again, relabelled)
        gone, new = _pick(change.removed, _ACCOUNTS), _pick(change.added, _ACCOUNTS)
        again.update(self._take_accounts(gone, new))
        gone, new = _pick(change.removed, _MEMBERS), _pick(change.added, _MEMBERS)
        _refuse_clashes(gone, new, self.members.has)
        members = self.members.update(gone, new, again, self._context)
        gone, new = _pick(change.removed, _SERVICES), _pick(change.added, _SERVICES)
        _refuse_clashes(gone, new, self.services.has)
        self.services.update(gone, new, members, relabelled, self._context)
        self._take_policies(few_changed)
        self.is_fresh = False
        return {uid for uid, item in members.items() if item.is_seen}

    def _take_few(self, objects: Objects, again: set[WorkloadUid], relabelled: set[str]) -> bool:
        """Read what is few, and find what that means for what is many. False: nothing new."""
        found, few, context = [o for o in objects if o.kind not in _MANY], self.few, self._context
        if not self.is_fresh and [*map(id, found)] == [*map(id, few.objects)]:
            return False
        few.objects = found
        few.chosen = without_duplicates(found, context)
        few.duplicates = context.take_problems()
        few.settings = read_settings(few.chosen, context)
        few.settings_problems = context.take_problems()
        few.routing = read_routing(few.chosen, context)
        few.routing_problems = context.take_problems()
        names = {
            item.name: item.body.metadata.labels
            for item in few.chosen
            if isinstance(item.body, NamespaceObject)
        }
        known, context.namespaces = context.namespaces, names
        relabelled |= {n for n in names.keys() | known.keys() if names.get(n) != known.get(n)}
        waypoints = read_waypoints(few.chosen, context)
        few.waypoint_problems = context.take_problems()
        before, context.waypoints = context.waypoints, waypoints
        moved = {
            name for name in waypoints.keys() | before if waypoints.get(name) != before.get(name)
        }
        relabelled |= namespaces_asking(moved, objects, context.namespaces)
        again.update(self.members.uids(relabelled))
        if context.trust_domain != few.settings.trust_domain:
            context.trust_domain = few.settings.trust_domain
            again.update(self.members.uids())
        return True

    def _take_accounts(self, removed: Objects, added: Objects) -> list[WorkloadUid]:
        accounts = self._context.accounts
        _refuse_clashes(removed, added, lambda item: (item.namespace, item.name) in accounts)
        gone = {(item.namespace, item.name) for item in removed}
        new = {(item.namespace, item.name) for item in added}
        accounts -= gone - new
        accounts |= new
        return self.members.uids({namespace for namespace, _ in gone ^ new})

    def _take_policies(self, few_changed: bool) -> None:
        """Policies name services: those that come, go or get a waypoint concern them."""
        services, few, context = self.services.services, self.few, self._context
        waypoints = {key: service.waypoint for key, service in services.items()}
        if few_changed or waypoints != self._waypoints:
            few.policies = read_policies(few.chosen, few.settings, services, context)
            few.policy_problems = context.take_problems()
        self._waypoints = waypoints


def without_duplicates(objects: Iterable[SourceObject], context: Context) -> list[SourceObject]:
    """Keep the first object of a name."""
    first: dict[tuple[str, str, str], SourceObject] = {}
    for item in objects:
        known = first.setdefault((item.kind, item.namespace, item.name), item)
        if known is not item:
            message = f"duplicate: the object of {known.where} counts"
            context.report(item, Code.DUPLICATE, message)
    return list(first.values())


def _pick(objects: Objects, kinds: frozenset[str]) -> Objects:
    return [item for item in objects if item.kind in kinds]


def _refuse_clashes(
    removed: Objects, added: Objects, is_known: Callable[[SourceObject], bool]
) -> None:
    """Raise `NameClash` if a new object has the name of one that stays, or of another new one."""
    leaving = {(item.kind, item.namespace, item.name) for item in removed}
    coming = {(item.kind, item.namespace, item.name) for item in added}
    if len(coming) < len(added) or any(
        is_known(item) and (item.kind, item.namespace, item.name) not in leaving for item in added
    ):
        raise NameClash
