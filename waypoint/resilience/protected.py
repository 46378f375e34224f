"""Which protection a request of the present snapshot has; worked out once per kind of request."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from mesh.model.address import SocketAddress
from mesh.model.workload import Service, ServiceKey, Workload
from mesh.routing.message import RequestHead, fold_headers
from mesh.routing.policies import places_of
from mesh.routing.rule import Backend, CompiledRule
from mesh.routing.session import read_session
from waypoint.resilience.protection import (
    MAX_WORKLOAD_WAYS,
    Protection,
    Protections,
    Way,
    gateway_of,
    service_places,
)
from waypoint.upstream.target import Group

_ServicePort = tuple[ServiceKey, int]


class Protected:
    """Built anew for every snapshot, after `Protections.follow`."""

    def __init__(
        self,
        protections: Protections,
        services: Mapping[ServiceKey, Service],
        epoch_s: Callable[[], float] = time.time,
    ) -> None:
        self._epoch_s = epoch_s
        self._protections = protections
        self._services = services
        self._none = protections.is_empty
        self.knows_sessions = protections.knows_sessions
        self.now = protections.now
        self._of_service: dict[tuple[_ServicePort, int], Protection | None] = {}
        self._of_workload: dict[SocketAddress, Protection | None] = {}
        self._of_rule: dict[tuple[int, _ServicePort, _ServicePort, int], Protection | None] = {}

    def of_service(self, service: ServiceKey, port: int, family: int, group: Group) -> (
        Protection | None
    ):  # fmt: skip
        """What holds for requests to a service port that no route rules."""
        if self._none:
            return None
        key = ((service, port), family)
        if key not in self._of_service:
            found = self._services.get(service)
            places = (*service_places(found, port), *gateway_of(found))
            way = Way(places=places, service=service, port=port, family=family)
            self._of_service[key] = self._protections.find(way, group)
        return self._of_service[key]

    def of_workload(
        self, workload: Workload, address: SocketAddress, group: Group
    ) -> Protection | None:
        """What holds for requests to a workload's own address."""
        if self._none:
            return None
        if address not in self._of_workload:
            if len(self._of_workload) >= MAX_WORKLOAD_WAYS:  # ports are the callers' choice
                self._of_workload.clear()
            way = Way.to_workload(workload, address)
            self._of_workload[address] = self._protections.find(way, group)
        return self._of_workload[address]

    def preferred(
        self,
        rule: CompiledRule,
        head: RequestHead,
        dialled: _ServicePort,
        family: int,
        groups: Callable[[ServiceKey, int, int], Group | None],
    ) -> Backend | None:
        """The backend that the session of a request leads to; sessions come before weights."""
        if len(rule.backends) < 2 or (self._none and rule.source.session is None):
            return None
        for backend in rule.backends:
            group = groups(backend.service, backend.port, family)
            if group is None or backend.failure is not None or not backend.ref.weight:
                continue
            to = (backend.service, backend.port)
            found = self.of_rule(rule, to, dialled, family, group)
            if found is None or found.sticky is None:
                return None
            headers = fold_headers(head.headers)
            sticky = found.sticky
            session = read_session(sticky.rules, sticky.name, headers, int(self._epoch_s()))
            if session is None:
                return None
            if found.cluster.find(session.endpoint) is not None:
                return backend
        return None

    def of_rule(
        self, rule: CompiledRule, to: _ServicePort, dialled: _ServicePort, family: int, group: Group
    ) -> Protection | None:
        """What holds for requests to one service port that a rule sends to another (or itself)."""
        if self._none and rule.source.session is None:
            return None
        key = (id(rule), to, dialled, family)
        if key not in self._of_rule:
            own = places_of(rule.route, rule.source.name)
            backend = service_places(self._services.get(to[0]), to[1])
            parent = service_places(self._services.get(dialled[0]), dialled[1])
            gateway = gateway_of(self._services.get(dialled[0]))
            places = tuple(dict.fromkeys((*own, *backend, *parent, *gateway)))
            session = rule.source.session
            way = Way(
                places=places,
                service=to[0],
                port=to[1],
                family=family,
                route=rule.route,
                rule=rule.index,
                own_session=session,
            )
            self._of_rule[key] = self._protections.find(way, group)
        return self._of_rule[key]
