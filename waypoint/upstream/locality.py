"""How near an endpoint is, and how much it can take: read from the labels of its workload."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.model.snapshot import MeshSnapshot
from mesh.model.traffic import Locality
from mesh.model.workload import Workload
from waypoint.upstream.target import Target

ZONE_LABEL = "topology.kubernetes.io/zone"
"""Kubernetes copies it from the node to its pods."""
WEIGHT_LABEL = "meshnode.io/weight"
MAX_WEIGHT = 1000


def zone_of(workload: Workload) -> str:
    """The zone of a workload, empty if nothing says."""
    return workload.labels.get(ZONE_LABEL, "")


def weight_of(labels: Mapping[str, str]) -> int:
    """An endpoint's weight; what is no number of 0 to 1000 counts as 1."""
    text = labels.get(WEIGHT_LABEL, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        return 1
    return min(int(text), MAX_WEIGHT)


def node_zone(snapshot: MeshSnapshot, node: str) -> str:
    """The zone of a node, by what its workloads say."""
    if not node:
        return ""
    zones = (zone_of(item) for item in snapshot.workloads.values() if item.node == node)
    return next((zone for zone in zones if zone), "")


def distance(locality: Locality, target: Target, *, node: str, zone: str) -> int:
    """How far an endpoint is: 0 the node, 1 the zone, 2 elsewhere; all alike if nobody cares."""
    if locality is Locality.NONE:
        return 0
    if locality is Locality.NODE and node and target.node == node:
        return 0
    return 1 if zone and target.zone == zone else 2
