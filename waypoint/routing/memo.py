"""Plans that were made before, for requests that agree in everything a plan depends on.

Judging and routing cost some 40 µs, looking up 1–2. Only steady plans are kept, which are the same
whatever chance, time or other fields of the request say (`waypoint.routing.plan.Forward.steady`),
and only where planning has not edited the request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from mesh.http1.message import RequestHead
from waypoint.contract import Origin
from waypoint.routing.dependence import Dependence
from waypoint.routing.plan import Forward, Reply, Wait

MAX_ORIGINS = 20_000
MAX_PLANS = 4096
"""Of one caller at one destination; then they are forgotten together."""
MAX_ALL_PLANS = 32_768
"""Of all callers; the same."""
MAX_KEY_BYTES = 1024
"""Requests that say more are planned each time: what is kept of clients' words has an end."""

Key = tuple[bytes, bytes, bytes, tuple[tuple[bytes, bytes], ...]]


class Planner(Protocol):
    """See `waypoint.routing.route_router.RouteRouter`."""

    def plan(self, origin: Origin, head: RequestHead) -> Forward | Reply | Wait: ...
    def depends(self, origin: Origin) -> Dependence | None: ...


@dataclass(slots=True)
class _Caller:
    """One caller at one destination."""

    names: tuple[bytes, ...]
    query: bool
    plans: dict[Key, Forward] = field(default_factory=dict)


class PlanMemo:
    """The plans of one snapshot."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._callers: dict[object, _Caller | None] = {}
        self._count = 0
        # By identity, checked: hashing an origin costs more than all the rest.
        self._of_origin: dict[int, tuple[Origin, _Caller | None]] = {}

    def plan(self, origin: Origin, head: RequestHead) -> Forward | Reply | Wait:
        """The plan of a request, which may be edited in place if it is a new one."""
        known = self._of_origin.get(id(origin))
        caller = known[1] if known is not None and known[0] is origin else self._caller(origin)
        if caller is None:
            return self._planner.plan(origin, head)
        target = head.target
        path = target if caller.query else target.partition(b"?")[0]
        names = caller.names
        # With their names: a value of one field must not pass for that of another.
        fields = tuple([item for name in names for item in head.headers if item[0] == name])
        key = (head.method, path, head.host, fields)
        plan: Forward | Reply | Wait | None = caller.plans.get(key)
        if plan is not None:
            return plan
        headers, host = head.headers, head.host
        plan = self._planner.plan(origin, head)
        same = head.target == target and head.headers is headers and head.host is host
        if isinstance(plan, Forward) and plan.steady and same:
            self._keep(caller, key, plan)
        return plan

    def _keep(self, caller: _Caller, key: Key, plan: Forward) -> None:
        method, path, host, fields = key
        if len(method) + len(path) + len(host) + sum(len(v) for _, v in fields) > MAX_KEY_BYTES:
            return
        if len(caller.plans) >= MAX_PLANS:
            self._count -= len(caller.plans)
            caller.plans.clear()
        if self._count >= MAX_ALL_PLANS:
            self._count = 0
            self._callers.clear()
            self._of_origin.clear()
            caller.plans.clear()
        caller.plans[key] = plan
        self._count += 1

    def _caller(self, origin: Origin) -> _Caller | None:
        service = origin.service.key if origin.service is not None else None
        workload = origin.workload.uid if origin.workload is not None else None
        key = (origin.principal, origin.client.ip, origin.dialled, service, workload)
        if key not in self._callers:
            if len(self._callers) >= MAX_ORIGINS:
                self._callers.clear()
                self._of_origin.clear()
                self._count = 0
            depends = self._planner.depends(origin)
            self._callers[key] = None if depends is None else _new_caller(depends)
        caller = self._callers[key]
        if len(self._of_origin) >= MAX_ORIGINS:
            self._of_origin.clear()
        self._of_origin[id(origin)] = (origin, caller)
        return caller


def _new_caller(depends: Dependence) -> _Caller:
    names = tuple(sorted(name.encode("latin-1") for name in depends.headers))
    return _Caller(names, depends.query)
