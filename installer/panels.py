"""What the dashboards show: titles and queries, without Grafana's own language.

In a query `$rate` stands for the window of a rate; `$namespace` and the like for a dashboard's
variables. Labels are Istio's, so the queries fit dashboards and alerts that people have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Unit(StrEnum):
    """Grafana's names of units."""

    COUNT = "short"
    PER_SECOND = "ops"
    REQUESTS = "reqps"
    BYTES_PER_SECOND = "Bps"
    BYTES = "bytes"
    RATIO = "percentunit"
    MILLISECONDS = "ms"
    SECONDS = "s"


class View(StrEnum):
    """How a panel shows its numbers."""

    TIME_SERIES = "timeseries"
    STAT = "stat"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and how its series are called, with `{{label}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One box. `width` is of 24 columns."""

    title: str
    queries: Sequence[Query]
    unit: Unit = Unit.COUNT
    view: View = View.TIME_SERIES
    width: int = 12


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice above the panels, filled by a query of label values."""

    name: str
    metric: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One page."""

    uid: str
    title: str
    panels: Sequence[Panel]
    variables: Sequence[Variable] = field(default_factory=tuple)


def rate(metric: str, matchers: str = "", by: str = "") -> str:
    """Sum of rates, over everything or for each combination of the labels in `by`."""
    inner = f"rate({metric}{{{matchers}}}[$rate])" if matchers else f"rate({metric}[$rate])"
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def quantiles(metric: str, matchers: str, by: str = "") -> list[Query]:
    """The median, and what the slowest tenth and hundredth wait at least."""
    labels = f"le, {by}" if by else "le"
    who = f"{{{{{by}}}}} " if by else ""
    return [
        Query(
            f"histogram_quantile({share}, {rate(f'{metric}_bucket', matchers, labels)})",
            f"{who}p{round(share * 100)}",
        )
        for share in (0.5, 0.9, 0.99)
    ]


def share(part: str, whole: str) -> str:
    """A part of the whole; nothing where there is no whole."""
    return f"({part} or vector(0)) / ({whole} > 0)"


def or_zero(expr: str) -> str:
    """A sum that is zero where nothing was counted yet."""
    return f"{expr} or vector(0)"
