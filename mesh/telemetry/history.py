"""Longer windows, from what a Prometheus scraped: its answers as `Traffic`. Pure.

`meshnode stat` and the page sum up `Traffic` whether it comes from the memory of agents and
waypoints or from here. What metrics do not have is left out: routes, and the reasons of denials.
Connections whose bytes were not in a tunnel are `direct` where both identities were known to the
kernel, else `passthrough`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import accumulate, pairwise

from mesh.telemetry import names
from mesh.telemetry.requests import BUCKETS_MS, is_failure
from mesh.telemetry.window_answer import EdgeTraffic, Point, Traffic

UNKNOWN = "unknown"
SPIFFE = "spiffe://"
DENIED_FLAGS = frozenset({"DENY", "UAEX"})
_EDGE = (
    "reporter",
    "source_workload_namespace",
    "source_workload",
    "source_principal",
    "destination_workload_namespace",
    "destination_workload",
    "destination_principal",
    "destination_service_namespace",
    "destination_service_name",
    "connection_security_policy",
)
_ENDED = ("response_flags",)
_ANSWERED = ("response_flags", "response_code", "grpc_response_status")


class Counted(StrEnum):
    """What a query counts."""

    OPENED = "opened"
    CLOSED = "closed"
    FAILED = "failed"
    SENT = "sent"
    RECEIVED = "received"
    REQUESTS = "requests"
    DURATIONS = "durations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One query. `$range` in it stands for the window, or for the step of a course."""

    counted: Counted
    expr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series of an answer: its labels, and (seconds since the epoch, value)."""

    labels: Mapping[str, str]
    values: Sequence[tuple[float, float]]


Answer = tuple[Counted, Sequence[Series]]


def queries(about: str = "", *, with_durations: bool = True) -> list[Asked]:
    """What to ask; `about` narrows down to edges that touch a `<namespace>/<name>`."""
    found = [
        _asked(Counted.OPENED, names.OPENED.name, _EDGE, about),
        _asked(Counted.CLOSED, names.CLOSED.name, (*_EDGE, *_ENDED), about),
        _asked(Counted.FAILED, names.FAILED.name, (*_EDGE, *_ENDED), about),
        _asked(Counted.SENT, names.RECEIVED.name, _EDGE, about),
        _asked(Counted.RECEIVED, names.SENT.name, _EDGE, about),
        _asked(Counted.REQUESTS, names.REQUESTS.name, (*_EDGE, *_ANSWERED), about),
    ]
    if with_durations:
        name = f"{names.REQUEST_DURATION.name}_bucket"
        found.append(_asked(Counted.DURATIONS, name, (*_EDGE, "le"), about))
    return found


def _asked(counted: Counted, metric: str, labels: Sequence[str], about: str) -> Asked:
    expr = " or ".join(
        f"sum by ({', '.join(labels)}) (increase({metric}{{{matchers}}}[$range]))"
        for matchers in _matchers(about)
    )
    return Asked(counted=counted, expr=expr)


def _matchers(about: str) -> list[str]:
    """Selectors of the series that touch an object; whoever reports is one of ours."""
    ours = 'reporter=~"source|destination|waypoint"'
    if not about:
        return [ours]
    namespace, _, name = about.partition("/")
    sides = [("source_workload_namespace", "source_workload"),
             ("destination_workload_namespace", "destination_workload"),
             ("destination_service_namespace", "destination_service_name")]  # fmt: skip
    return [
        f"{ours}, {space}={quote(namespace)}" + (f", {own}={quote(name)}" if name else "")
        for space, own in sides
    ]


def quote(text: str) -> str:
    """A string of PromQL."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


@dataclass(slots=True)
class _Sums:
    counts: dict[Counted, float] = field(default_factory=dict)
    bad: float = 0.0
    denied: float = 0.0
    below: dict[float, float] = field(default_factory=dict)
    course: dict[float, list[float]] = field(default_factory=dict)

    def add(self, counted: Counted, labels: Mapping[str, str], value: float) -> None:
        self.counts[counted] = self.counts.get(counted, 0.0) + value
        if counted is Counted.DURATIONS:
            bound = float(labels.get("le", "inf"))
            self.below[bound] = self.below.get(bound, 0.0) + value
        self.bad += value * _is_bad(counted, labels)
        self.denied += value * _is_denied(counted, labels)

    def point(self, counted: Counted, labels: Mapping[str, str], at: float, value: float) -> None:
        closed, failed, moved = self.course.setdefault(at, [0.0, 0.0, 0.0])
        closed += value * (counted in (Counted.CLOSED, Counted.REQUESTS))
        failed += value * _is_bad(counted, labels)
        moved += value * (counted in (Counted.SENT, Counted.RECEIVED))
        self.course[at] = [closed, failed, moved]

    def count(self, *kinds: Counted) -> int:
        return round(sum(self.counts.get(kind, 0.0) for kind in kinds))

    def buckets(self) -> tuple[int, ...]:
        """Prometheus' buckets hold what is below; ours what is between."""
        if not self.below:
            return ()
        bounds = [*map(float, BUCKETS_MS), float("inf")]
        below = [0.0, *accumulate((self.below.get(bound, 0.0) for bound in bounds), max)]
        return tuple(max(round(high - low), 0) for low, high in pairwise(below))


def _is_denied(counted: Counted, labels: Mapping[str, str]) -> bool:
    """Policy's own refusal has no flag (as Envoy's), and reached no workload: an application that
    answers 403 did."""
    if counted is Counted.FAILED:
        return labels.get("response_flags") in DENIED_FLAGS
    if counted is not Counted.REQUESTS:
        return False
    answered = (labels.get("response_code"), labels.get("grpc_response_status"))
    refused = answered[0] in ("401", "403") or answered[1] in ("7", "16")
    nobody = labels.get("destination_workload", UNKNOWN) in (UNKNOWN, "")
    return labels.get("response_flags") in DENIED_FLAGS or (refused and nobody)


def _is_bad(counted: Counted, labels: Mapping[str, str]) -> bool:
    if counted is Counted.FAILED:
        return True
    if counted is not Counted.REQUESTS:
        return False
    status, grpc = labels.get("response_code", ""), labels.get("grpc_response_status", "")
    refused = "denied" if _is_denied(counted, labels) else ""
    return is_failure(_number(status, 0), _number(grpc, -1), refused)


def _number(text: str, default: int) -> int:
    return int(text) if text.isascii() and text.isdecimal() else default


def history(
    origin: str, window_s: float, totals: Iterable[Answer], course: Iterable[Answer] = (),
    *, now: float = 0.0, step_s: float = 0.0,
) -> Traffic:  # fmt: skip
    """The answers of `queries` as the traffic of a window; `course`: the same, step by step."""
    sums: dict[tuple[str, ...], _Sums] = {}
    for counted, series in totals:
        for one in series:
            if one.values:
                edge = sums.setdefault(_edge_key(one.labels), _Sums())
                edge.add(counted, one.labels, one.values[-1][1])
    for counted, series in course:
        for one in series:
            edge = sums.setdefault(_edge_key(one.labels), _Sums())
            for at, value in one.values:
                edge.point(counted, one.labels, at, value)
    edges = tuple(
        replace(_edge(key, found), points=_points(found, now, step_s))
        for key, found in sums.items()
        if found.count(*Counted)
    )
    return Traffic(origin=origin, asked_s=window_s, covered_s=window_s, edges=edges)


def _edge_key(labels: Mapping[str, str]) -> tuple[str, ...]:
    values = [labels.get(name, "") for name in _EDGE]
    return tuple("" if value == UNKNOWN else value for value in values)


def _edge(key: tuple[str, ...], found: _Sums) -> EdgeTraffic:
    reporter, src_space, src, src_id, dst_space, dst, dst_id, space, service, security = key
    is_requests = reporter == "waypoint" and bool(found.count(Counted.REQUESTS))
    ended = Counted.REQUESTS if is_requests else Counted.CLOSED
    tunnelled = security == "mutual_tls"
    path = "hbone" if tunnelled else "direct" if src_id and dst_id else "passthrough"
    return EdgeTraffic(
        reporter=reporter if is_requests or reporter != "waypoint" else "destination",
        path="waypoint" if is_requests else path,
        src_namespace=src_space,
        src=src,
        src_identity=src_id.removeprefix(SPIFFE),
        dst_namespace=dst_space,
        dst=dst,
        dst_identity=dst_id.removeprefix(SPIFFE),
        service=f"{space}/{service}" if space and service else "",
        route="",
        secured=tunnelled or path == "direct",
        opened=found.count(ended if is_requests else Counted.OPENED),
        closed=found.count(ended),
        failed=round(found.bad),
        denied=round(found.denied),
        sent=found.count(Counted.SENT),
        received=found.count(Counted.RECEIVED),
        buckets=found.buckets(),
    )


def _points(found: _Sums, now: float, step_s: float) -> tuple[Point, ...]:
    return tuple(
        Point(
            ago_s=round(now - at + step_s, 1),
            span_s=step_s,
            closed=round(closed),
            failed=round(failed),
            bytes=round(moved),
        )
        for at, (closed, failed, moved) in sorted(found.course.items())
        if closed or moved
    )
