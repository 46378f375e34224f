"""All dashboards."""

from __future__ import annotations

from collections.abc import Sequence

from installer.pages import MESH, SERVICE, WORKLOAD
from installer.pages_system import CONTROLLER, WAYPOINT, ZTUNNEL
from installer.panels import Dashboard

DASHBOARDS: Sequence[Dashboard] = (MESH, SERVICE, WORKLOAD, ZTUNNEL, WAYPOINT, CONTROLLER)
