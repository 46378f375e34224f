"""Weights, zones and distances, as labels say."""

from __future__ import annotations

import pytest

from mesh.model.address import parse_socket_address
from mesh.model.connection import Party
from mesh.model.snapshot import MeshSnapshot
from mesh.model.traffic import Locality
from tests.unit.waypoint.scene import objects
from waypoint.upstream.locality import distance, node_zone, weight_of
from waypoint.upstream.target import Target, TargetKey


@pytest.mark.parametrize(
    ("text", "weight"),
    [("", 1), ("0", 0), ("7", 7), ("9999", 1000), ("-1", 1), ("1.5", 1), ("12345", 1), ("²", 1)],
)
def test_weights(text: str, weight: int) -> None:
    assert weight_of({"meshnode.io/weight": text}) == weight


def target(node: str, zone: str) -> Target:
    address = parse_socket_address("10.0.0.1:80")
    made = Target(TargetKey(address=address, tunnel=None, expected=frozenset()), Party())
    made.node, made.zone = node, zone
    return made


@pytest.mark.parametrize(
    ("locality", "node", "zone", "wanted"),
    [
        (Locality.NONE, "n1", "a", 0),
        (Locality.NODE, "n1", "a", 0),
        (Locality.NODE, "n2", "a", 1),
        (Locality.NODE, "n2", "b", 2),
        (Locality.ZONE, "n1", "a", 1),
        (Locality.ZONE, "n2", "b", 2),
    ],
)
def test_distances(locality: Locality, node: str, zone: str, wanted: int) -> None:
    assert distance(locality, target(node, zone), node="n1", zone="a") == wanted


def test_nothing_is_near_if_the_own_place_is_unknown() -> None:
    assert distance(Locality.NODE, target("", ""), node="", zone="") == 2


def test_the_zone_of_a_node_is_what_its_workloads_say() -> None:
    made = objects(labels={2: "topology.kubernetes.io/zone: b"})
    assert node_zone(made, "node-2") == "b"
    assert node_zone(made, "node-1") == ""
    assert node_zone(made, "") == ""
    assert node_zone(MeshSnapshot(revision=1), "x") == ""
