"""Cases about redirects."""

from __future__ import annotations

from collections.abc import Iterable

from tests.unit.mesh.routing.conformance.filter_text import (
    HOST,
    PREFIX,
    on_backend,
    redirect_to,
    rule,
    rules,
)
from tests.unit.mesh.routing.conformance.model import (
    Ask,
    Case,
    Want,
)


def _redirects(
    table: Iterable[tuple[str, str, int, str]],
) -> tuple[str, tuple[tuple[Ask, Want], ...]]:
    """Objects and exchanges from (path, redirect, status, location)."""
    rows = list(table)
    by_what: dict[str, str] = {}
    for path, what, _, _ in rows:
        by_what.setdefault(what, rule(path.partition("?")[0], redirect_to(what), ""))
    asks = tuple(
        (Ask(path=path), Want(status=status, headers={"location": location}))
        for path, _, status, location in rows
    )
    return rules(*by_what.values()), asks


_HOST_STATUS = _redirects(
    (
        ("/hostname-redirect", HOST, 302, "http://example.org/hostname-redirect"),
        (
            "/host-and-status",
            f"{HOST}, statusCode: 301",
            301,
            "http://example.org/host-and-status",
        ),
    )
)
_FULL = "path: {type: ReplaceFullPath, replaceFullPath: /full-path-replacement}"
_PATH_REDIRECTS = _redirects(
    (
        ("/original-prefix", PREFIX, 302, "http://echo/replacement-prefix"),
        ("/full", _FULL, 302, "http://echo/full-path-replacement"),
        ("/prefix-and-host", f"{HOST}, {PREFIX}", 302, "http://example.org/replacement-prefix"),
        (
            "/prefix-and-status",
            f"statusCode: 301, {PREFIX}",
            301,
            "http://echo/replacement-prefix",
        ),
        ("/full-and-host", f"{HOST}, {_FULL}", 302, "http://example.org/full-path-replacement"),
        ("/full-and-status", f"statusCode: 301, {_FULL}", 301, "http://echo/full-path-replacement"),
    )
)
_LEMON = (
    Ask(path="/original-prefix/lemon?q=1"),
    Want(status=302, headers={"location": "http://echo/replacement-prefix/lemon?q=1"}),
)
_PORT_REDIRECTS = _redirects(
    (
        ("/port", "port: 8083", 302, "http://echo:8083/port"),
        ("/port-and-host", f"{HOST}, port: 8083", 302, "http://example.org:8083/port-and-host"),
        (
            "/port-and-status",
            "port: 8083, statusCode: 301",
            301,
            "http://echo:8083/port-and-status",
        ),
        (
            "/all",
            f"{HOST}, port: 8083, statusCode: 301",
            301,
            "http://example.org:8083/all",
        ),
    )
)
_SCHEME_REDIRECTS = _redirects(
    (
        ("/scheme", "scheme: https", 302, "https://echo/scheme"),
        ("/scheme-and-host", f"scheme: https, {HOST}", 302, "https://example.org/scheme-and-host"),
        (
            "/scheme-and-status",
            "scheme: https, statusCode: 301",
            301,
            "https://echo/scheme-and-status",
        ),
        (
            "/all",
            f"scheme: https, statusCode: 301, {HOST}",
            301,
            "https://example.org/all",
        ),
    )
)
_PORT_SCHEME = _redirects(
    (
        ("/nil-nil", HOST, 302, "http://example.org/nil-nil"),
        ("/http-nil", f"{HOST}, scheme: http", 302, "http://example.org/http-nil"),
        ("/https-nil", f"{HOST}, scheme: https", 302, "https://example.org/https-nil"),
        ("/nil-80", f"{HOST}, port: 80", 302, "http://example.org/nil-80"),
        ("/nil-8080", f"{HOST}, port: 8080", 302, "http://example.org:8080/nil-8080"),
        ("/http-80", f"{HOST}, scheme: http, port: 80", 302, "http://example.org/http-80"),
        (
            "/http-8080",
            f"{HOST}, scheme: http, port: 8080",
            302,
            "http://example.org:8080/http-8080",
        ),
        ("/https-443", f"{HOST}, scheme: https, port: 443", 302, "https://example.org/https-443"),
        ("/https-80", f"{HOST}, scheme: https, port: 80", 302, "https://example.org:80/https-80"),
    )
)
_ON_8080 = (
    Ask(path="/nil-nil", port=8080),
    Want(status=302, headers={"location": "http://example.org:8080/nil-nil"}),
)


def _status_case(prefix: str, code: int) -> Case:
    objects, asks = _redirects(
        (("/r", f"{HOST}, statusCode: {code}", code, "http://example.org/r"),)
    )
    return Case(name=f"{prefix}{code}Redirect", objects=objects, exchanges=asks)


CASES = (
    Case(
        name="MeshHTTPRouteRedirectHostAndStatus",
        objects=_HOST_STATUS[0],
        exchanges=_HOST_STATUS[1],
    ),
    Case(name="HTTPRouteRedirectHostAndStatus", objects=_HOST_STATUS[0], exchanges=_HOST_STATUS[1]),
    Case(
        name="MeshHTTPRouteRedirectPath",
        objects=_PATH_REDIRECTS[0],
        exchanges=(*_PATH_REDIRECTS[1], _LEMON),
    ),
    Case(
        name="HTTPRouteRedirectPath",
        objects=_PATH_REDIRECTS[0],
        exchanges=(*_PATH_REDIRECTS[1], _LEMON),
    ),
    Case(
        name="MeshHTTPRouteRedirectPort",
        objects=_PORT_REDIRECTS[0],
        exchanges=_PORT_REDIRECTS[1],
    ),
    Case(name="HTTPRouteRedirectPort", objects=_PORT_REDIRECTS[0], exchanges=_PORT_REDIRECTS[1]),
    Case(
        name="MeshHTTPRouteSchemeRedirect",
        objects=_SCHEME_REDIRECTS[0],
        exchanges=_SCHEME_REDIRECTS[1],
    ),
    Case(
        name="HTTPRouteRedirectScheme",
        objects=_SCHEME_REDIRECTS[0],
        exchanges=_SCHEME_REDIRECTS[1],
    ),
    Case(
        name="HTTPRouteRedirectPortAndScheme",
        objects=_PORT_SCHEME[0],
        exchanges=(*_PORT_SCHEME[1], _ON_8080),
    ),
    *(_status_case("MeshHTTPRoute", code) for code in (303, 307, 308)),
    *(_status_case("HTTPRoute", code) for code in (303, 307, 308)),
    Case(
        name="HTTPRouteBackendRequestRedirect",
        objects=rules(rule("/a", "", on_backend(redirect_to(HOST)))),
        exchanges=(
            (Ask(path="/a"), Want(status=302, headers={"location": "http://example.org/a"})),
        ),
    ),
)
