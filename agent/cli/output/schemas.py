"""The JSON schema of every command's answer, made of the classes that are encoded.

Published in docs/reference/schemas/, one file for each command; a suite that runs every command
against a mesh checks what is printed against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TypeAlias

import msgspec

from agent.admin.describe import Description
from agent.admin.matching import RoutesAnswer
from agent.admin.question import AuthzAnswer
from agent.admin.view import BpfDiff, Certificates, Connections, FlowEvent, LogStatus, NodeStatus
from agent.capture.views import (
    WIDE,
    DropView,
    EnrolledView,
    Finding,
    FlowView,
    IdentityView,
    LinkView,
    MapView,
    OrigDstView,
    PolicyView,
    ProgView,
    ServiceView,
    StatsView,
)
from agent.cli.analyze import Analysis
from agent.cli.bug_report import BugReport
from agent.cli.check import Report
from agent.cli.config import ConfigDiff
from agent.cli.enroll import Enrolled
from agent.cli.reach.nodes import Nodes
from agent.cli.stat import EdgesAnswer, StatAnswer
from agent.cli.waypoint import Waypoints

Schema: TypeAlias = Mapping[str, object]

ANSWERS: Mapping[str, type] = {
    "status": NodeStatus,
    "status (several nodes)": Nodes[NodeStatus],
    "check": Report,
    "stat": StatAnswer,
    "edges": EdgesAnswer,
    "top": EdgesAnswer,
    "describe": Description,
    "routes": RoutesAnswer,
    "authz check": AuthzAnswer,
    "analyze": Analysis,
    "connections": Connections,
    "connections (several nodes)": Nodes[Connections],
    "certs": Certificates,
    "certs (several nodes)": Nodes[Certificates],
    "config diff": ConfigDiff,
    "bpf diff": BpfDiff,
    "log": LogStatus,
    "enroll": Enrolled,
    "unenroll": Enrolled,
    "waypoint list": Waypoints,
    "waypoint status": Waypoints,
    "waypoint apply": Waypoints,
    "waypoint delete": Waypoints,
    "bug-report": BugReport,
}
"""What each command encodes with `-o json`."""

TABLES: Mapping[str, type] = {
    "bpf maps": MapView,
    "bpf progs": ProgView,
    "bpf links": LinkView,
    "bpf enrolled": EnrolledView,
    "bpf origdst": OrigDstView,
    "bpf identity": IdentityView,
    "bpf policy": PolicyView,
    "bpf service": ServiceView,
    "bpf stats": StatsView,
    "bpf flows": FlowView,
    "bpf drops": DropView,
    "bpf fsck": Finding,
}
"""Commands that list entries of the kernel, and what an entry is."""

_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}


def _object(**properties: object) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: object) -> Schema:
    return {"type": "array", "items": items}


def _versioned(**properties: object) -> Schema:
    return _object(schema_version={"type": "integer"}, **properties)


_ROOTS = _versioned(roots=_list(_object(fingerprint=_TEXT, stage=_TEXT, since=_NUMBER)))
SMALL: Mapping[str, Schema] = {
    "token create": _versioned(node=_TEXT, token=_TEXT),
    "token list": _versioned(tokens=_list(_object(token_id=_TEXT, node=_TEXT, created_at=_NUMBER))),
    "token revoke": _versioned(revoked=_TEXT),
    "ca init": _ROOTS,
    "ca roots": _ROOTS,
    "ca rotate-root": _ROOTS,
    "ca activate-root": _ROOTS,
    "uninstall": _versioned(removed=_list(_TEXT)),
}
TAP = _object(kind=_TEXT, origin=_TEXT, ended_at=_NUMBER)
ERROR = _object(error=_object(code=_TEXT, message=_TEXT, hint=_TEXT))
"""What standard output holds in JSON mode when a command fails."""


def schemas() -> Mapping[str, Schema]:
    """Every schema by its command; `error` is of all of them."""
    return {
        **{command: schema_of(kind) for command, kind in ANSWERS.items()},
        **{command: table_schema(view) for command, view in TABLES.items()},
        **SMALL,
        "tap": TAP,
        "bpf monitor": schema_of(FlowEvent),
        "error": ERROR,
    }


def schema_of(kind: type) -> dict[str, object]:
    """The JSON schema of an answer."""
    return msgspec.json.schema(kind)


def table_schema(view: type) -> Schema:
    """Entries with every field of the view; ids of 64 bits are text, numbers may have names."""
    assert is_dataclass(view)
    wide = dict.fromkeys(WIDE, _TEXT)
    properties = {one.name: wide.get(one.name, {}) for one in fields(view)}
    entry = {"type": "object", "properties": properties, "required": list(properties)}
    return _versioned(node=_TEXT, entries=_list(entry))
