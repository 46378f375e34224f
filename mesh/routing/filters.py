"""What filters do to the heads of requests and responses. Pure functions.

Order (ours where the standard is silent): redirect ends the request; else the rule's header
edits, the rule's rewrite, then the chosen backend's edits and rewrite. On the way back the
backend's response edits come first, then the rule's.
"""

from __future__ import annotations

from dataclasses import replace

from mesh.model.routing import (
    HeaderEdit,
    PathRewrite,
    PathRewriteType,
    Redirect,
    Rewrite,
    RouteFilters,
)
from mesh.routing.message import Fields, RequestHead, ResponseHead
from mesh.routing.path import split_authority

_DEFAULT_PORTS = {"http": 80, "https": 443}


def edit_headers(headers: Fields, edit: HeaderEdit) -> Fields:
    """Apply one header filter.

    `set` leaves exactly one value; `add` joins the values there are by commas, into one header,
    as the standard's examples do (RFC 9110 §5.3); Set-Cookie cannot be joined and gets a line of
    its own.
    """
    gone = {field.name for field in edit.set}
    gone.update(edit.remove)
    kept = [(name, value) for name, value in headers if name not in gone]
    kept += [(field.name, field.value) for field in edit.set]
    for field in edit.add:
        present = [value for name, value in kept if name == field.name]
        if not present or field.name == "set-cookie":
            kept.append((field.name, field.value))
            continue
        first = next(index for index, (name, _) in enumerate(kept) if name == field.name)
        joined = (field.name, ",".join((*present, field.value)))
        kept = [item for item in kept if item[0] != field.name]
        kept.insert(min(first, len(kept)), joined)
    return tuple(kept)


def rewrite_path(path: str, rewrite: PathRewrite, prefix: str | None) -> str:
    """Replace a whole path, or the prefix that matched (without its trailing slash)."""
    if rewrite.kind is PathRewriteType.FULL:
        return rewrite.value if rewrite.value.startswith("/") else f"/{rewrite.value}"
    if prefix is None:
        return path
    rest = path[len(prefix) :]
    base = rewrite.value.rstrip("/")
    if not base:
        # Without a base, a rest such as `//b` would name a host to whoever reads it as a URI.
        return "/" + rest.lstrip("/")
    if rest and not rest.startswith("/"):
        rest = f"/{rest}"
    if not base.startswith("/"):
        base = f"/{base}"
    return base + rest


def apply_rewrite(head: RequestHead, rewrite: Rewrite, prefix: str | None) -> RequestHead:
    """Rewrite host and path; the query stays."""
    path = head.path
    if rewrite.path is not None:
        path = rewrite_path(path, rewrite.path, prefix)
    return replace(head, path=path, authority=rewrite.hostname or head.authority)


def apply_request(head: RequestHead, filters: RouteFilters, prefix: str | None) -> RequestHead:
    """Apply header edits and the rewrite of one set of filters."""
    if filters.request_headers is not None:
        # Host is no header here: the authority carries it, and only a rewrite changes that.
        head = replace(head, headers=edit_headers(head.headers, filters.request_headers))
    if filters.rewrite is not None:
        head = apply_rewrite(head, filters.rewrite, prefix)
    return head


def apply_response(head: ResponseHead, filters: RouteFilters) -> ResponseHead:
    """Apply the response edits of one set of filters."""
    if filters.response_headers is None:
        return head
    return replace(head, headers=edit_headers(head.headers, filters.response_headers))


def redirect(
    head: RequestHead, rule: Redirect, prefix: str | None, listener_port: int
) -> ResponseHead:
    """Answer with a redirect.

    Port of the Location: the filter's; else the well-known one of the filter's scheme; else that
    of the listener. :80 of http and :443 of https are not written (Gateway API).
    """
    scheme = rule.scheme or head.scheme
    host = rule.hostname or _host(head.authority)
    port: int | None = rule.port
    if port is None:
        port = _DEFAULT_PORTS.get(scheme) if rule.scheme else listener_port
    shown = "" if port is None or port == _DEFAULT_PORTS.get(scheme) else f":{port}"
    path = head.path if rule.path is None else rewrite_path(head.path, rule.path, prefix)
    query = "" if head.query is None else f"?{head.query}"
    location = f"{scheme}://{host}{shown}{path}{query}"
    return ResponseHead(status=rule.status, headers=(("location", location),))


def _host(authority: str) -> str:
    return split_authority(authority)[0]
