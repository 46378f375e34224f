"""Cases about what filters do."""

from __future__ import annotations

from collections.abc import Iterable

from tests.unit.mesh.routing.conformance.model import (
    Ask,
    Case,
    Want,
    route,
    services,
    to,
    v,
)

V1, V2 = to("echo-v1"), to("echo-v2")


def _rule(path: str, filters: str, backend: str = V1) -> str:
    """A rule for a path prefix, with filters in flow style."""
    backends = f"    backendRefs: [{backend}]\n" if backend else ""
    return f"  - matches: [{{path: {{value: {path}}}}}]\n    filters: [{filters}]\n{backends}"


def _backend(filters: str) -> str:
    return to("echo-v1", more=f", filters: [{filters}]")


def _request(edit: str) -> str:
    return f"{{type: RequestHeaderModifier, requestHeaderModifier: {{{edit}}}}}"


def _response(edit: str) -> str:
    return f"{{type: ResponseHeaderModifier, responseHeaderModifier: {{{edit}}}}}"


def _redirect(what: str) -> str:
    return f"{{type: RequestRedirect, requestRedirect: {{{what}}}}}"


def _rewrite(what: str) -> str:
    return f"{{type: URLRewrite, urlRewrite: {{{what}}}}}"


def _route(*rules: str) -> str:
    return services() + route("  rules:\n" + "".join(rules))


_SET = "set: [{name: X-Header-Set, value: set-overwrites-values}]"
_ADD = "add: [{name: X-Header-Add, value: add-appends-values}]"
_REMOVE = "remove: [X-Header-Remove]"
_MANY = (
    "set: [{name: x-header-set-1, value: header-set-1}, {name: x-header-set-2, value: h2}],"
    " add: [{name: x-header-add-1, value: header-add-1}, {name: x-header-add-2, value: a2}],"
    " remove: [x-header-remove-1, x-header-remove-2]"
)
_CASELESS = (
    "set: [{name: X-Header-Set, value: header-set}],"
    " add: [{name: X-Header-Add, value: header-add}], remove: [X-Header-Remove]"
)
# path, headers that come in, headers that must come out, headers that must not.
_Edit = tuple[str, tuple[tuple[str, str], ...], dict[str, str], tuple[str, ...]]
_EDITS: tuple[_Edit, ...] = (
    (
        "/set",
        (("some-other", "v"),),
        {"some-other": "v", "x-header-set": "set-overwrites-values"},
        (),
    ),
    (
        "/set",
        (("some-other", "v"), ("x-header-set", "some-value"), ("X-Header-Set", "again")),
        {"some-other": "v", "x-header-set": "set-overwrites-values"},
        (),
    ),
    ("/add", (("a", "v"),), {"a": "v", "x-header-add": "add-appends-values"}, ()),
    (
        "/add",
        (("x-header-add", "original"),),
        {"x-header-add": "original,add-appends-values"},
        (),
    ),
    ("/remove", (("x-header-remove", "v"), ("keep", "v")), {"keep": "v"}, ("x-header-remove",)),
    (
        "/multiple",
        (
            ("x-header-set-2", "original"),
            ("x-header-add-2", "original"),
            ("x-header-remove-2", "v"),
            ("another", "v"),
        ),
        {
            "x-header-set-1": "header-set-1",
            "x-header-set-2": "h2",
            "x-header-add-1": "header-add-1",
            "x-header-add-2": "original,a2",
            "another": "v",
        },
        ("x-header-remove-1", "x-header-remove-2"),
    ),
    (
        "/case-insensitivity",
        (("x-header-set", "o"), ("x-header-add", "o"), ("x-header-remove", "o")),
        {"x-header-set": "header-set", "x-header-add": "o,header-add"},
        ("x-header-remove",),
    ),
)
_PATHS = {
    "/set": _SET,
    "/add": _ADD,
    "/remove": _REMOVE,
    "/multiple": _MANY,
    "/case-insensitivity": _CASELESS,
}
_REQUEST_EDITS = _route(*(_rule(path, _request(edit)) for path, edit in _PATHS.items()))
_REQUEST_ASKS = tuple(
    (Ask(path=path, headers=given), Want(backend="echo-v1", sent=sent, absent=absent))
    for path, given, sent, absent in _EDITS
)
_BACKEND_EDITS = _route(*(_rule(path, "", _backend(_request(e))) for path, e in _PATHS.items()))
_RESPONSE_EDITS = _route(*(_rule(path, _response(edit)) for path, edit in _PATHS.items()))
_RESPONSE_ASKS = tuple(
    (Ask(path=path, reply=reply), Want(backend="echo-v1", headers=headers, unset=unset))
    for path, given, headers, unset in _EDITS
    for reply in [tuple((name.lower(), value) for name, value in given)]
)


def _redirects(
    table: Iterable[tuple[str, str, int, str]],
) -> tuple[str, tuple[tuple[Ask, Want], ...]]:
    """Objects and exchanges from (path, redirect, status, location)."""
    rows = list(table)
    rules: dict[str, str] = {}
    for path, what, _, _ in rows:
        rules.setdefault(what, _rule(path.partition("?")[0], _redirect(what), ""))
    asks = tuple(
        (Ask(path=path), Want(status=status, headers={"location": location}))
        for path, _, status, location in rows
    )
    return _route(*rules.values()), asks


_HOST = "hostname: example.org"
_HOST_STATUS = _redirects(
    (
        ("/hostname-redirect", _HOST, 302, "http://example.org/hostname-redirect"),
        (
            "/host-and-status",
            f"{_HOST}, statusCode: 301",
            301,
            "http://example.org/host-and-status",
        ),
    )
)
_FULL = "path: {type: ReplaceFullPath, replaceFullPath: /full-path-replacement}"
_PREFIX = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}"
_PATH_REDIRECTS = _redirects(
    (
        ("/original-prefix", _PREFIX, 302, "http://echo/replacement-prefix"),
        ("/full", _FULL, 302, "http://echo/full-path-replacement"),
        ("/prefix-and-host", f"{_HOST}, {_PREFIX}", 302, "http://example.org/replacement-prefix"),
        (
            "/prefix-and-status",
            f"statusCode: 301, {_PREFIX}",
            301,
            "http://echo/replacement-prefix",
        ),
        ("/full-and-host", f"{_HOST}, {_FULL}", 302, "http://example.org/full-path-replacement"),
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
        ("/port-and-host", f"{_HOST}, port: 8083", 302, "http://example.org:8083/port-and-host"),
        (
            "/port-and-status",
            "port: 8083, statusCode: 301",
            301,
            "http://echo:8083/port-and-status",
        ),
        (
            "/all",
            f"{_HOST}, port: 8083, statusCode: 301",
            301,
            "http://example.org:8083/all",
        ),
    )
)
_SCHEME_REDIRECTS = _redirects(
    (
        ("/scheme", "scheme: https", 302, "https://echo/scheme"),
        ("/scheme-and-host", f"scheme: https, {_HOST}", 302, "https://example.org/scheme-and-host"),
        (
            "/scheme-and-status",
            "scheme: https, statusCode: 301",
            301,
            "https://echo/scheme-and-status",
        ),
        (
            "/all",
            f"scheme: https, statusCode: 301, {_HOST}",
            301,
            "https://example.org/all",
        ),
    )
)
_PORT_SCHEME = _redirects(
    (
        ("/nil-nil", _HOST, 302, "http://example.org/nil-nil"),
        ("/http-nil", f"{_HOST}, scheme: http", 302, "http://example.org/http-nil"),
        ("/https-nil", f"{_HOST}, scheme: https", 302, "https://example.org/https-nil"),
        ("/nil-80", f"{_HOST}, port: 80", 302, "http://example.org/nil-80"),
        ("/nil-8080", f"{_HOST}, port: 8080", 302, "http://example.org:8080/nil-8080"),
        ("/http-80", f"{_HOST}, scheme: http, port: 80", 302, "http://example.org/http-80"),
        (
            "/http-8080",
            f"{_HOST}, scheme: http, port: 8080",
            302,
            "http://example.org:8080/http-8080",
        ),
        ("/https-443", f"{_HOST}, scheme: https, port: 443", 302, "https://example.org/https-443"),
        ("/https-80", f"{_HOST}, scheme: https, port: 80", 302, "https://example.org:80/https-80"),
    )
)
_ON_8080 = (
    Ask(path="/nil-nil", port=8080),
    Want(status=302, headers={"location": "http://example.org:8080/nil-nil"}),
)


def _status_case(prefix: str, code: int) -> Case:
    objects, asks = _redirects(
        (("/r", f"{_HOST}, statusCode: {code}", code, "http://example.org/r"),)
    )
    return Case(name=f"{prefix}{code}Redirect", objects=objects, exchanges=asks)


_MORE = "set: [{name: X-Header-Set, value: s}], add: [{name: X-Header-Add, value: a}]"
_REWRITES = (
    ("/prefix/one", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}"),
    ("/strip-prefix", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}"),
    ("/full/one", "path: {type: ReplaceFullPath, replaceFullPath: /one}"),
)
_REWRITE_PATH = _route(
    *(_rule(path, _rewrite(what)) for path, what in _REWRITES),
    _rule(
        "/full/rewrite-path-and-modify-headers",
        _rewrite("path: {type: ReplaceFullPath, replaceFullPath: /test}"),
        V1,
    ).replace("filters: [", f"filters: [{_request(_MORE)}, "),
    _rule(
        "/prefix/rewrite-path-and-modify-headers",
        _rewrite("path: {type: ReplacePrefixMatch, replacePrefixMatch: /prefix}"),
        V1,
    ).replace("filters: [", f"filters: [{_request(_MORE)}, "),
)
_EDITED = {"x-header-set": "s", "x-header-add": "a"}
_REWRITE_PATH_ASKS = (
    (Ask(path="/prefix/one/two"), v(1, "/one/two")),
    (Ask(path="/prefix/one?a=/b"), v(1, "/one?a=/b")),
    (Ask(path="/strip-prefix/three"), v(1, "/three")),
    (Ask(path="/strip-prefix"), v(1, "/")),
    (Ask(path="/full/one/two"), v(1, "/one")),
    (
        Ask(path="/full/rewrite-path-and-modify-headers/test"),
        Want(backend="echo-v1", path="/test", sent=_EDITED),
    ),
    (
        Ask(path="/prefix/rewrite-path-and-modify-headers/one"),
        Want(backend="echo-v1", path="/prefix/one", sent=_EDITED),
    ),
)
_MIRROR = "{type: RequestMirror, requestMirror: {backendRef: %s%s}}"
_CORS = (
    "{type: CORS, cors: {allowOrigins: ['https://www.foo.com', 'https://*.bar.com'],"
    " allowMethods: [GET, OPTIONS], allowHeaders: [x-header-1, x-header-2],"
    " exposeHeaders: [x-header-3, x-header-4], allowCredentials: true, maxAge: 3600}}"
)
_WILD = (
    "{type: CORS, cors: {allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*'],"
    " exposeHeaders: ['*']%s}}"
)


def _preflight(path: str, origin: str, method: str = "GET", names: str = "") -> Ask:
    headers = [("origin", origin), ("access-control-request-method", method)]
    if names:
        headers.append(("access-control-request-headers", names))
    return Ask(path=path, method="OPTIONS", headers=tuple(headers))


_ORIGIN, _METHODS = "access-control-allow-origin", "access-control-allow-methods"
_NAMES, _CREDENTIALS = "access-control-allow-headers", "access-control-allow-credentials"
_EXPOSE, _AGE = "access-control-expose-headers", "access-control-max-age"
_REFUSED = Want(status=204, unset=(_ORIGIN, _METHODS, _NAMES, _CREDENTIALS))
_FOO, _BAR = "https://www.foo.com", "https://a.b.bar.com"


def _allowed(origin: str) -> Want:
    return Want(
        status=204,
        headers={_ORIGIN: origin, _METHODS: "GET, OPTIONS", _CREDENTIALS: "true", _AGE: "3600"},
    )


_CORS_ASKS = (
    (_preflight("/cors-1", _FOO), _allowed(_FOO)),
    (_preflight("/cors-1", _BAR), _allowed(_BAR)),
    (
        _preflight("/cors-1", _FOO, names="x-header-1"),
        Want(status=204, headers={_NAMES: "x-header-1, x-header-2"}),
    ),
    (_preflight("/cors-1", _FOO), Want(status=204, unset=(_NAMES, _EXPOSE))),
    (_preflight("/cors-1", "https://bar.com"), _REFUSED),
    (_preflight("/cors-1", "http://www.foo.com"), _REFUSED),
    (_preflight("/cors-1", "https://www.foo.com.evil"), _REFUSED),
    (_preflight("/cors-1", "https://evil/.bar.com"), _REFUSED),
    (
        Ask(path="/cors-1", headers=(("origin", _FOO),)),
        Want(
            backend="echo-v1",
            headers={_ORIGIN: _FOO, _CREDENTIALS: "true", _EXPOSE: "x-header-3, x-header-4"},
        ),
    ),
    (
        Ask(path="/cors-1", headers=(("origin", "https://other"),), reply=((_ORIGIN, "*"),)),
        Want(backend="echo-v1", unset=(_ORIGIN,)),
    ),
    (Ask(path="/cors-1"), Want(backend="echo-v1", unset=(_ORIGIN,))),
    (Ask(path="/cors-1", method="OPTIONS", headers=(("origin", _FOO),)), v(1)),
    (
        _preflight("/cors-wild", "https://x", "PUT", "a"),
        Want(
            status=204,
            headers={_ORIGIN: "*", _METHODS: "*", _NAMES: "*", _AGE: "5"},
            unset=(_CREDENTIALS,),
        ),
    ),
    (
        Ask(path="/cors-wild", headers=(("origin", "https://x"),)),
        Want(backend="echo-v1", headers={_ORIGIN: "*", _EXPOSE: "*"}),
    ),
    (
        _preflight("/cors-cred", "https://x", "PUT", "a"),
        Want(
            status=204,
            headers={_ORIGIN: "https://x", _METHODS: "PUT", _NAMES: "a", _CREDENTIALS: "true"},
        ),
    ),
    (
        Ask(path="/cors-cred", headers=(("origin", "https://x"),)),
        Want(backend="echo-v1", headers={_ORIGIN: "https://x"}, unset=(_EXPOSE,)),
    ),
)
_GRPC_EDIT = services() + route(
    f"  rules: [{{filters: [{_request(_MORE)}], backendRefs: [{to('echo-v1', 7070)}]}}]\n",
    kind="GRPCRoute",
)
_GRPC_CALL = Ask(
    path="/s.E/Echo",
    method="POST",
    port=7070,
    headers=(("content-type", "application/grpc"), ("x-header-add", "o")),
)
_GRPC_WANT = Want(backend="echo-v1", sent={"x-header-set": "s", "x-header-add": "o,a"})

CASES = (
    Case(
        name="MeshHTTPRouteRequestHeaderModifier", objects=_REQUEST_EDITS, exchanges=_REQUEST_ASKS
    ),
    Case(name="HTTPRouteRequestHeaderModifier", objects=_REQUEST_EDITS, exchanges=_REQUEST_ASKS),
    Case(
        name="MeshHTTPRouteBackendRequestHeaderModifier",
        objects=_BACKEND_EDITS,
        exchanges=_REQUEST_ASKS,
    ),
    Case(
        name="HTTPRouteBackendRequestHeaderModifier",
        objects=_BACKEND_EDITS,
        exchanges=_REQUEST_ASKS,
    ),
    Case(name="HTTPRouteResponseHeaderModifier", objects=_RESPONSE_EDITS, exchanges=_RESPONSE_ASKS),
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
    Case(name="MeshHTTPRouteRewritePath", objects=_REWRITE_PATH, exchanges=_REWRITE_PATH_ASKS),
    Case(name="HTTPRouteRewritePath", objects=_REWRITE_PATH, exchanges=_REWRITE_PATH_ASKS),
    Case(
        name="HTTPRouteRewriteHost",
        objects=_route(
            _rule("/one", _rewrite("hostname: one.example.org")),
            _rule("/two", f"{_rewrite('hostname: two.example.org')}, {_request(_MORE)}"),
        ),
        exchanges=(
            (Ask(path="/one"), Want(backend="echo-v1", host="one.example.org", path="/one")),
            (Ask(path="/two"), Want(backend="echo-v1", host="two.example.org", sent=_EDITED)),
        ),
    ),
    Case(
        name="HTTPRouteBackendURLRewrite",
        objects=_route(
            _rule("/a", "", _backend(_rewrite(f"hostname: b.example.org, {_PREFIX}"))),
        ),
        exchanges=(
            (
                Ask(path="/a/x"),
                Want(backend="echo-v1", host="b.example.org", path="/replacement-prefix/x"),
            ),
        ),
    ),
    Case(
        name="HTTPRouteBackendRequestRedirect",
        objects=_route(_rule("/a", "", _backend(_redirect(_HOST)))),
        exchanges=(
            (Ask(path="/a"), Want(status=302, headers={"location": "http://example.org/a"})),
        ),
    ),
    Case(
        name="HTTPRouteRequestMirror",
        objects=_route(
            _rule("/mirror", _MIRROR % (V2, "")),
            _rule("/edited", f"{_request(_MORE)}, {_MIRROR % (V2, '')}"),
        ),
        exchanges=(
            (Ask(path="/mirror"), Want(backend="echo-v1", mirrors=("echo-v2",))),
            (Ask(path="/edited"), Want(backend="echo-v1", mirrors=("echo-v2",), sent=_EDITED)),
        ),
    ),
    Case(
        name="HTTPRouteRequestMultipleMirrors",
        objects=_route(_rule("/m", f"{_MIRROR % (V2, '')}, {_MIRROR % (to('echo-v3'), '')}")),
        exchanges=((Ask(path="/m"), Want(backend="echo-v1", mirrors=("echo-v2", "echo-v3"))),),
    ),
    Case(
        name="HTTPRouteCORS",
        objects=_route(
            _rule("/cors-1", _CORS),
            _rule("/cors-wild", _WILD % ""),
            _rule("/cors-cred", _WILD % ", allowCredentials: true"),
        ),
        exchanges=_CORS_ASKS,
    ),
    Case(
        name="MeshGRPCRouteRequestHeaderModifier",
        objects=_GRPC_EDIT,
        exchanges=((_GRPC_CALL, _GRPC_WANT),),
    ),
    Case(
        name="GRPCRouteRequestHeaderModifier",
        objects=_GRPC_EDIT,
        exchanges=((_GRPC_CALL, _GRPC_WANT),),
    ),
)
