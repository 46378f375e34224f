"""Routing where no route applies: the service itself, as without a waypoint."""

from __future__ import annotations

from mesh.http1.message import RequestHead
from mesh.model.request import RequestFlag
from waypoint.contract import Origin
from waypoint.routing.plan import Forward, Reply
from waypoint.upstream.endpoints import Endpoints


class ServiceRouter:
    """See `waypoint.routing.plan.Router`."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    def plan(self, origin: Origin, head: RequestHead) -> Forward | Reply:
        if origin.service is not None:
            group = self._endpoints.service(
                origin.service.key, origin.dialled.port, origin.dialled.ip.version
            )
            if group is not None:
                return Forward(group=group, steady=True)
        elif origin.workload is not None:
            group = self._endpoints.workload(origin.workload, origin.dialled)
            return Forward(group=group, steady=True)
        return Reply(
            status=503,
            text=f"no destination {origin.dialled}",
            flag=RequestFlag.NO_CLUSTER,
            details="cluster_not_found",
        )
