"""Events counted in workers, summed up and exposed by one process.

Workers parse hostile bytes, so only metrics of a fixed table are taken, with as many labels as
they have, and a bounded number of label sets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.telemetry.families import family
from mesh.telemetry.names import MetricSpec

MAX_SERIES = 1000
"""Of one metric; their labels are names of the mesh's objects."""


class EventCounts(Collector):
    """Sums of counters."""

    def __init__(self, registry: CollectorRegistry, specs: Sequence[MetricSpec]) -> None:
        self._specs: Mapping[str, MetricSpec] = {spec.name: spec for spec in specs}
        self._sums: dict[str, Counter[tuple[str, ...]]] = {name: Counter() for name in self._specs}
        registry.register(self)

    def add(self, counts: Iterable[tuple[str, tuple[str, ...], int]]) -> None:
        """Add what a worker counted."""
        for name, labels, count in counts:
            spec = self._specs.get(name)
            if spec is None or len(labels) != len(spec.labels) or count < 0:
                continue
            sums = self._sums[name]
            key = tuple(labels)
            if key not in sums and len(sums) >= MAX_SERIES:
                key = ("overflow",) * len(key)
            sums[key] += count

    def describe(self) -> list[Metric]:
        return [family(spec, ()) for spec in self._specs.values()]

    def collect(self) -> Iterator[Metric]:
        for name, spec in self._specs.items():
            yield family(spec, [(key, float(n)) for key, n in self._sums[name].items()])
