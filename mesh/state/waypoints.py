"""Which traffic each waypoint takes, and so who is behind one.

As in Istio, a waypoint takes what is addressed to services unless the label of its Gateway says
otherwise. Where there is no Gateway of that name (a mesh without Kubernetes may do without, and a
Gateway may come after the labels that name it) everything has to pass: a label that asks for a
waypoint is never ignored because something is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from mesh.identity.directory import WAYPOINT_CLASS
from mesh.model.codes import Code
from mesh.model.snapshot import Severity
from mesh.model.workload import WaypointFor
from mesh.sources.objects import (
    GatewayObject,
    Metadata,
    PodObject,
    ServiceObject,
    SourceObject,
    WorkloadObject,
)
from mesh.state.context import Context
from mesh.state.labels import waypoint_of

WAYPOINT_FOR = ("meshnode.io/waypoint-for", "istio.io/waypoint-for")
_TAKEN = {
    WaypointFor.SERVICE: frozenset({WaypointFor.SERVICE, WaypointFor.ALL}),
    WaypointFor.WORKLOAD: frozenset({WaypointFor.WORKLOAD, WaypointFor.ALL}),
}


def read_waypoints(objects: Iterable[SourceObject], context: Context) -> dict[str, WaypointFor]:
    """Read what the Gateways of waypoints say, by `<namespace>/<name>`."""
    found: dict[str, WaypointFor] = {}
    for item in objects:
        body = item.body
        if isinstance(body, GatewayObject) and body.spec.gateway_class_name == WAYPOINT_CLASS:
            found[f"{item.namespace}/{item.name}"] = _read(item, body.metadata.labels, context)
    return found


def parse_waypoint_for(labels: Mapping[str, str]) -> tuple[WaypointFor, str]:
    """What a Gateway's labels say; with what is wrong with them, or an empty text."""
    name = next((name for name in WAYPOINT_FOR if labels.get(name)), "")
    text = labels.get(name, WaypointFor.SERVICE)
    if text not in {item.value for item in WaypointFor}:
        return WaypointFor.ALL, f"label {name}: {text!r} is not one of {', '.join(WaypointFor)}"
    return WaypointFor(text), ""


def namespaces_asking(
    names: Collection[str],
    objects: Iterable[SourceObject],
    namespaces: Mapping[str, Mapping[str, str]],
) -> set[str]:
    """Namespaces with a pod, workload or Service that asks for one of these waypoints."""
    if not names:
        return set()
    return {
        item.namespace
        for item in objects
        if isinstance(item.body, PodObject | WorkloadObject | ServiceObject)
        and waypoint_of(
            item.body.metadata.labels, item.namespace, namespaces.get(item.namespace, {})
        )
        in names
    }


def waypoint_for(
    asked: WaypointFor, source: SourceObject, meta: Metadata, context: Context
) -> str | None:
    """The waypoint that a Service or a workload is behind, if any.

    Args:
        asked: SERVICE or WORKLOAD, whatever the object is.
    """
    namespace = context.namespaces.get(source.namespace, {})
    name = waypoint_of(meta.labels, source.namespace, namespace)
    if name is None:
        return None
    takes = context.waypoints.get(name, WaypointFor.ALL)
    if takes in _TAKEN[asked]:
        return name
    if waypoint_of(meta.labels, source.namespace, {}) is not None:
        message = f"waypoint {name} takes {_NAMED[takes]} ({WAYPOINT_FOR[0]}: {takes})"
        context.report(
            source, Code.WAYPOINT_UNFIT, f"{message}: nothing passes it", Severity.WARNING
        )
    return None


_NAMED = {
    WaypointFor.SERVICE: "only traffic for services",
    WaypointFor.WORKLOAD: "only traffic for workloads",
    WaypointFor.ALL: "all traffic",
    WaypointFor.NONE: "no traffic",
}


def _read(item: SourceObject, labels: Mapping[str, str], context: Context) -> WaypointFor:
    takes, problem = parse_waypoint_for(labels)
    if problem:
        context.report(item, Code.BAD_LABEL, f"{problem}: everything has to pass it")
    return takes
