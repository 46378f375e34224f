"""Least-loaded choice of an endpoint: the better of two random ones (P2C).

Two random candidates are enough to keep the worst load close to the mean (Mitzenmacher), and
need no order over all endpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from mesh.model.workload import Endpoint, Service, WorkloadUid


def candidates(
    service: Service, port: int, *, local: frozenset[WorkloadUid] = frozenset()
) -> list[Endpoint]:
    """List the ready endpoints of a service port.

    `local` are workloads that the kernel reaches by itself: they are left out while any other
    endpoint is ready, because whoever asks here was not sent to them.
    """
    ready = [item for item in service.endpoints if item.ready and port in item.ports]
    remote = [item for item in ready if item.workload not in local]
    return remote or ready


def choose_least_loaded(
    endpoints: Sequence[Endpoint], load: Callable[[Endpoint], int], random: Random
) -> Endpoint:
    """Choose one of at least one endpoint; `load` counts its active connections."""
    if len(endpoints) == 1:
        return endpoints[0]
    first, second = random.sample(endpoints, 2)
    # `sample` returns them in random order, so a tie is random too.
    return second if load(second) < load(first) else first
