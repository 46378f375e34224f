"""What the page shows, as values: gathered from agents and waypoints, summed up without I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.admin.client import AdminClient
from agent.admin.describe import What
from agent.admin.view import CertificateStatus, NodeStatus, PodStatus
from agent.cli.describe import format_description
from agent.cli.reach.observers import Observer, ask
from mesh.errors import ConfigError, MeshnodeError
from mesh.model.snapshot import Problem
from mesh.telemetry.denials import Denial
from mesh.telemetry.window_answer import Traffic
from mesh.telemetry.window_stats import (
    By,
    EdgeRow,
    Golden,
    believed,
    edges,
    origins,
    row_name,
    stat,
)

SCHEMA_VERSION = 1
HISTORY_S = 900.0
POINTS = 45
"""Of a sparkline: twenty seconds each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHealth:
    """One agent: what is wrong with it, its pods and its certificates."""

    node: str
    ready: bool
    not_ready: tuple[str, ...]
    revision: int
    applied_revision: int
    workers_ready: int
    workers: int
    pods: tuple[PodStatus, ...]
    certificates: tuple[CertificateStatus, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Everything but histories.

    Attributes:
        missing: who did not answer, and why.
        history: who knows of more than 15 minutes; empty for nobody.
    """

    schema_version: int = SCHEMA_VERSION
    since_s: float
    origins: Mapping[str, float]
    missing: Mapping[str, str]
    namespaces: tuple[Golden, ...]
    services: tuple[Golden, ...]
    workloads: tuple[Golden, ...]
    routes: tuple[Golden, ...]
    edges: tuple[EdgeRow, ...]
    denials: tuple[Denial, ...]
    nodes: tuple[NodeHealth, ...]
    history: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One step of a sparkline."""

    ago_s: float
    per_s: float
    failed_per_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One workload or service: numbers, course, neighbours, and sentences."""

    schema_version: int = SCHEMA_VERSION
    name: str
    by: By
    golden: Golden
    unit: str
    window_s: float
    course: tuple[Beat, ...]
    callers: tuple[EdgeRow, ...]
    callees: tuple[EdgeRow, ...]
    denials: tuple[Denial, ...]
    text: str


class History(Protocol):
    """Whoever knows of more than the last quarter of an hour."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def story(self, seconds: float, about: str, points: int) -> Traffic:
        """What touched an object, with its course. Raises `MeshnodeError`."""
        ...


def gather_overview(
    asked: Sequence[Observer], since_s: float, history: History | None = None
) -> Overview:
    """Ask everybody; raises if nobody answers."""
    traffic = ask(asked, lambda client: client.traffic(since_s))
    health = ask([one for one in asked if one.is_node], AdminClient.status)
    found = list(traffic.found.values())
    missing = {**traffic.missing, **health.missing}
    return Overview(
        since_s=since_s,
        origins=origins(found),
        missing={origin: str(error) for origin, error in missing.items()},
        namespaces=tuple(stat(found, By.NAMESPACE)),
        services=tuple(stat(found, By.SERVICE)),
        workloads=tuple(stat(found, By.WORKLOAD)),
        routes=tuple(stat(found, By.ROUTE)),
        edges=tuple(edges(found)),
        denials=tuple(merge_denials(found)),
        nodes=tuple(_health(status) for status in health.found.values()),
        history=history.name if history is not None else "",
    )


def gather_story(
    asked: Sequence[Observer],
    by: By,
    name: str,
    seconds: float = HISTORY_S,
    history: History | None = None,
) -> Story:
    """The last quarter of an hour of one workload or service, or longer by `history`.

    Denials and their reasons are only in memory. Raises `ConfigError` if nobody knows so much.
    """
    recent = list(_recent(asked, name))
    found = recent if seconds <= HISTORY_S else [_long(history, seconds, name)]
    rows = edges(found)
    denials = merge_denials(recent)
    is_service = by is By.SERVICE
    return Story(
        name=name,
        by=by,
        golden=next(row for row in stat(found, by, names=[name]) if row.name == name),
        unit=_unit(found, by, name),
        window_s=seconds,
        course=course(found, by, name, seconds),
        callers=tuple(row for row in rows if _leads_to(row, name)),
        callees=() if is_service else tuple(row for row in rows if row.src == name),
        denials=tuple(one for one in denials if name in (one.src, one.dst, one.service)),
        text=_sentences(asked, What.SERVICE if is_service else What.POD, name),
    )


def _recent(asked: Sequence[Observer], name: str) -> Iterable[Traffic]:
    question = ask(asked, lambda client: client.traffic(HISTORY_S, points=True, about=name))
    return question.found.values()


def _long(history: History | None, seconds: float, name: str) -> Traffic:
    if history is None:
        raise ConfigError("agents remember 15 minutes: start the page with --prometheus URL")
    return history.story(seconds, name, POINTS)


def _leads_to(row: EdgeRow, name: str) -> bool:
    return row.dst == name or name in row.services


def _unit(found: Sequence[Traffic], by: By, name: str) -> str:
    is_requests = any(
        edge.is_requests and row_name(edge, by) == name for edge, _ in believed(found)
    )
    return "requests" if is_requests else "connections"


def course(
    found: Sequence[Traffic], by: By, name: str, window_s: float = HISTORY_S
) -> tuple[Beat, ...]:
    """The rates of a row over time, oldest first; slots that were joined are spread evenly."""
    step = window_s / POINTS
    chosen = [edge for edge, _ in believed(found) if row_name(edge, by) == name]
    requests = any(edge.is_requests for edge in chosen)
    totals = [[0.0, 0.0, 0.0] for _ in range(POINTS)]
    for edge in chosen:
        for point in edge.points:
            first = max(0.0, point.ago_s - point.span_s)
            width = max(point.ago_s - first, 1.0)
            for index in range(int(first // step), min(int(point.ago_s // step) + 1, POINTS)):
                overlap = min(point.ago_s, (index + 1) * step) - max(first, index * step)
                share = max(overlap, 0.0) / width / step
                if edge.is_requests is requests:
                    totals[index][0] += point.closed * share
                    totals[index][1] += point.failed * share
                totals[index][2] += point.bytes * share
    beats = [
        Beat(
            ago_s=round((index + 1) * step, 1),
            per_s=round(total[0], 3),
            failed_per_s=round(total[1], 3),
            bytes_per_s=round(total[2], 1),
        )
        for index, total in enumerate(totals)
    ]
    return tuple(reversed(beats))


def merge_denials(found: Sequence[Traffic]) -> list[Denial]:
    """The denials of all answers, newest first. A source that was turned away knows no rule: it
    is left out where the destination's own word is there."""
    every = [denial for traffic in found for denial in traffic.denials]
    explained = {(one.src, one.dst) for one in every if one.policy}
    kept = [one for one in every if one.policy or (one.src, one.dst) not in explained]
    return sorted(kept, key=lambda one: -one.last_at)


def _health(status: NodeStatus) -> NodeHealth:
    return NodeHealth(
        node=status.node,
        ready=not status.not_ready,
        not_ready=status.not_ready,
        revision=status.revision,
        applied_revision=status.applied_revision,
        workers_ready=sum(worker.ready for worker in status.workers),
        workers=len(status.workers),
        pods=status.pods,
        certificates=status.certificates,
        problems=status.problems,
    )


def _sentences(asked: Sequence[Observer], what: What, name: str) -> str:
    """`meshnode describe` of the object, where an agent knows one of this name."""
    for one in asked:
        if one.is_node:
            try:
                return format_description(one.client.describe(what, name))
            except MeshnodeError:
                continue  # a workload of several pods has no pod of its own name
    return ""
