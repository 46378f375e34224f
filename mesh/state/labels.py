"""What labels and annotations of a pod, workload, service or namespace mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mesh.errors import ConfigError
from mesh.model.workload import WAYPOINT_LABEL, Exclusions
from mesh.sources.fields import FieldPath, parse_network, parse_port, split_list
from mesh.sources.http_fields import parse_byte_rate
from mesh.sources.objects import Metadata

Labels = Mapping[str, str]
Parsed = TypeVar("Parsed")

NETNS_ANNOTATION = "meshnode.io/netns"
_ENROLMENT = {
    "meshnode.io/dataplane": {"enabled": True, "disabled": False},
    "istio.io/dataplane-mode": {"ambient": True, "none": False},
}
_WAYPOINT = ("meshnode.io/use-waypoint", "istio.io/use-waypoint")
_WAYPOINT_NAMESPACE = ("meshnode.io/use-waypoint-namespace", "istio.io/use-waypoint-namespace")
# The suffixes that a ReplicaSet and a CronJob's Job add to their owner's name.
_JOB_SUFFIX = re.compile(r"-\d+$")


def is_waypoint(labels: Labels) -> bool:
    """Say whether a pod belongs to a waypoint."""
    return bool(labels.get(WAYPOINT_LABEL))


def is_enrolled(labels: Labels, namespace: Labels, problems: list[str]) -> bool:
    """Say whether labels ask for the mesh; the object's own beat its namespace's."""
    for scope in (labels, namespace):
        for name, meanings in _ENROLMENT.items():
            value = scope.get(name)
            if value in meanings:
                return meanings[value]
            if value is not None:
                choices = " or ".join(map(repr, meanings))
                problems.append(f"label {name}: {value!r} is not {choices}; it is ignored")
    return False


def waypoint_of(labels: Labels, own_namespace: str, namespace: Labels) -> str | None:
    """Name the waypoint (`<namespace>/<name>`) that labels ask for; `none` opts out."""
    for scope in (labels, namespace):
        name = _first(scope, _WAYPOINT)
        if name == "none":
            return None
        if name:
            return f"{_first(scope, _WAYPOINT_NAMESPACE) or own_namespace}/{name}"
    return None


def exclusions_of(annotations: Labels, problems: list[str]) -> Exclusions:
    """Read the `exclude-*` annotations; an item that makes no sense excludes nothing."""

    def read(name: str, parse: Callable[[str, FieldPath], Parsed]) -> list[Parsed]:
        annotation = f"meshnode.io/exclude-{name}"
        found: list[Parsed] = []
        for text in split_list(annotations.get(annotation, "")):
            try:
                found.append(parse(text, ()))
            except ConfigError as error:
                problems.append(f"annotation {annotation}: {error}")
        return found

    return Exclusions(
        outbound_ports=frozenset(read("outbound-ports", parse_port)),
        outbound_cidrs=tuple(read("outbound-cidrs", parse_network)),
        outbound_uids=frozenset(read("outbound-uids", _parse_uid)),
        inbound_ports=frozenset(read("inbound-ports", parse_port)),
    )


EGRESS_ANNOTATION = "meshnode.io/egress-bandwidth"


def egress_of(annotations: Labels, problems: list[str]) -> int | None:
    """Read how many bytes per second a connection may send; what makes no sense is no limit."""
    text = annotations.get(EGRESS_ANNOTATION)
    if text is None:
        return None
    try:
        return parse_byte_rate(text, ())
    except ConfigError as error:
        problems.append(f"annotation {EGRESS_ANNOTATION}: {error}")
        return None


def _parse_uid(text: str, _: FieldPath) -> int:
    # uid_t is 32 bits wide and its highest value means "no user".
    if not text.isascii() or not text.isdigit() or not int(text) < 2**32 - 1:
        raise ConfigError(f"{text!r} is not a user id")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppNames:
    """The names that metrics give a workload."""

    app: str
    service: str
    revision: str


def app_names(meta: Metadata) -> AppNames:
    """Derive the names as Istio does: owner, canonical service, canonical revision."""
    labels = meta.labels
    owner = _owner(meta)
    app_label = _first(labels, ("app.kubernetes.io/name", "app"))
    name = owner or app_label or meta.name
    service = _first(labels, ("service.istio.io/canonical-name",)) or app_label or name
    revisions = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
    return AppNames(app=name, service=service, revision=_first(labels, revisions) or "latest")


def _owner(meta: Metadata) -> str:
    owner = next((item for item in meta.owner_references if item.controller), None)
    if owner is None:
        return ""
    if owner.kind == "ReplicaSet":
        suffix = meta.labels.get("pod-template-hash", "")
        return owner.name.removesuffix(f"-{suffix}") if suffix else owner.name
    return _JOB_SUFFIX.sub("", owner.name) if owner.kind == "Job" else owner.name


def _first(labels: Labels, names: Sequence[str]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")
