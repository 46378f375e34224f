"""Judges the waypoints of this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.admin.client import AdminClient
from agent.cli.checks.result import Anchor, Check, Group
from mesh.errors import MeshnodeError
from mesh.run_files import waypoint_sockets

_WAYPOINTS = Group("waypoints")
FORWARD = (
    "applications must copy traceparent and tracestate (or the B3 headers) and x-request-id from "
    "the request they serve to those they make"
)


def waypoint_facts() -> Mapping[str, str]:
    """Name of each waypoint, and what is wrong with it (empty = it serves)."""
    return {name: _problem(AdminClient(name, path)) for name, path in waypoint_sockets()}


def _problem(client: AdminClient) -> str:
    try:
        client.ask_ready()
    except MeshnodeError as error:
        return str(error)
    return ""


def waypoint_checks(facts: Mapping[str, str]) -> Iterator[Check]:
    """Whether each serves, and what traces need; nothing without a waypoint."""
    for name, problem in sorted(facts.items()):
        if problem:
            hint = "its log says why; until it serves, requests to its services are refused"
            yield _WAYPOINTS.warning(name, problem, hint, Anchor.WAYPOINTS)
        else:
            yield _WAYPOINTS.ok(name, "serves")
    if facts:
        yield _WAYPOINTS.ok("traces through applications", FORWARD)
