"""Response edits of a route, in their order: rule, then backend."""

from __future__ import annotations

from mesh.http1.message import Headers, ResponseHead
from mesh.model.routing import HeaderEdit
from waypoint.plan import Forward


def edit_response(head: ResponseHead, plan: Forward) -> None:
    """Apply a plan's response filters in place."""
    for edit in plan.response_edits:
        head.headers = edit_headers(head.headers, edit)
    if plan.response_headers:
        names = {name for name, _ in plan.response_headers}
        kept = [item for item in head.headers if item[0] not in names]
        head.headers = [*kept, *plan.response_headers]


def edit_headers(headers: Headers, edit: HeaderEdit) -> Headers:
    """HTTPHeaderFilter: set replaces, add appends, remove drops."""
    gone = {name.encode("latin-1") for name in edit.remove}
    gone |= {item.name.encode("latin-1") for item in edit.set}
    kept = [item for item in headers if item[0] not in gone]
    added = (*edit.set, *edit.add)
    kept += [(item.name.encode("latin-1"), item.value.encode("latin-1")) for item in added]
    return kept
