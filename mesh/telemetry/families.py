"""From a `MetricSpec` and values to what prometheus-client renders."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from mesh.telemetry.names import Kind, MetricSpec

Sample = tuple[tuple[str, ...], float]
"""Label values in the order of the spec, and the value."""


def family(spec: MetricSpec, samples: Iterable[Sample]) -> Metric:
    """One metric with all its samples."""
    kind = CounterMetricFamily if spec.kind is Kind.COUNTER else GaugeMetricFamily
    metric = kind(spec.name, spec.help, labels=spec.labels)
    for labels, value in samples:
        metric.add_metric(labels, value)
    return metric
