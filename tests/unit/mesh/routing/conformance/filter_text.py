"""Rules with filters, as text of a route."""

from __future__ import annotations

from tests.unit.mesh.routing.conformance.model import (
    route,
    services,
    to,
)

V1, V2 = to("echo-v1"), to("echo-v2")


def rule(path: str, filters: str, backend: str = V1) -> str:
    """A rule for a path prefix, with filters in flow style."""
    backends = f"    backendRefs: [{backend}]\n" if backend else ""
    return f"  - matches: [{{path: {{value: {path}}}}}]\n    filters: [{filters}]\n{backends}"


def on_backend(filters: str) -> str:
    return to("echo-v1", more=f", filters: [{filters}]")


def edit_request(edit: str) -> str:
    return f"{{type: RequestHeaderModifier, requestHeaderModifier: {{{edit}}}}}"


def edit_response(edit: str) -> str:
    return f"{{type: ResponseHeaderModifier, responseHeaderModifier: {{{edit}}}}}"


def redirect_to(what: str) -> str:
    return f"{{type: RequestRedirect, requestRedirect: {{{what}}}}}"


def rewrite_to(what: str) -> str:
    return f"{{type: URLRewrite, urlRewrite: {{{what}}}}}"


def rules(*rules: str) -> str:
    return services() + route("  rules:\n" + "".join(rules))


HOST = "hostname: example.org"
PREFIX = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}"
