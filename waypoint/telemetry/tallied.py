"""From what a lane counted to what the metrics take, the same for HTTP/1.1 and HTTP/2."""

from __future__ import annotations

from typing import Protocol

from mesh.model.connection import Party
from mesh.model.request import RequestFlag
from mesh.telemetry.requests import RequestGroup
from waypoint.contract import Origin


class Counted(Protocol):
    """Requests of one decision that ended alike."""

    @property
    def status(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def received(self) -> int: ...
    @property
    def sent(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def buckets(self) -> list[int]: ...
    @property
    def received_buckets(self) -> list[int]: ...
    @property
    def sent_buckets(self) -> list[int]: ...


def request_group(
    counted: Counted,
    origin: Origin,
    dst: Party,
    *,
    protocol: str,
    flag: RequestFlag,
    route: str,
    grpc_status: int = -1,
) -> RequestGroup:
    """Say whose requests they were."""
    return RequestGroup(
        src=origin.src,
        dst=dst,
        service=origin.service.key if origin.service else "",
        protocol=protocol,
        status=counted.status,
        flag=flag,
        mutual_tls=origin.principal is not None,
        count=counted.count,
        seconds=counted.seconds,
        received=counted.received,
        sent=counted.sent,
        buckets=counted.buckets,
        received_buckets=counted.received_buckets,
        sent_buckets=counted.sent_buckets,
        route=route,
        grpc_status=grpc_status,
    )
