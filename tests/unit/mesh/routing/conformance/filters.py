"""Cases about what filters do."""

from __future__ import annotations

from tests.unit.mesh.routing.conformance.filter_text import (
    PREFIX,
    V1,
    V2,
    edit_request,
    edit_response,
    on_backend,
    rewrite_to,
    rule,
    rules,
)
from tests.unit.mesh.routing.conformance.model import (
    Ask,
    Case,
    Want,
    route,
    services,
    to,
    v,
)

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
_REQUEST_EDITS = rules(*(rule(path, edit_request(edit)) for path, edit in _PATHS.items()))
_REQUEST_ASKS = tuple(
    (Ask(path=path, headers=given), Want(backend="echo-v1", sent=sent, absent=absent))
    for path, given, sent, absent in _EDITS
)
_BACKEND_EDITS = rules(*(rule(path, "", on_backend(edit_request(e))) for path, e in _PATHS.items()))
_RESPONSE_EDITS = rules(*(rule(path, edit_response(edit)) for path, edit in _PATHS.items()))
_RESPONSE_ASKS = tuple(
    (Ask(path=path, reply=reply), Want(backend="echo-v1", headers=headers, unset=unset))
    for path, given, headers, unset in _EDITS
    for reply in [tuple((name.lower(), value) for name, value in given)]
)


_MORE = "set: [{name: X-Header-Set, value: s}], add: [{name: X-Header-Add, value: a}]"
_REWRITES = (
    ("/prefix/one", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}"),
    ("/strip-prefix", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}"),
    ("/full/one", "path: {type: ReplaceFullPath, replaceFullPath: /one}"),
)
_REWRITE_PATH = rules(
    *(rule(path, rewrite_to(what)) for path, what in _REWRITES),
    rule(
        "/full/rewrite-path-and-modify-headers",
        rewrite_to("path: {type: ReplaceFullPath, replaceFullPath: /test}"),
        V1,
    ).replace("filters: [", f"filters: [{edit_request(_MORE)}, "),
    rule(
        "/prefix/rewrite-path-and-modify-headers",
        rewrite_to("path: {type: ReplacePrefixMatch, replacePrefixMatch: /prefix}"),
        V1,
    ).replace("filters: [", f"filters: [{edit_request(_MORE)}, "),
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
    f"  rules: [{{filters: [{edit_request(_MORE)}], backendRefs: [{to('echo-v1', 7070)}]}}]\n",
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
    Case(name="MeshHTTPRouteRewritePath", objects=_REWRITE_PATH, exchanges=_REWRITE_PATH_ASKS),
    Case(name="HTTPRouteRewritePath", objects=_REWRITE_PATH, exchanges=_REWRITE_PATH_ASKS),
    Case(
        name="HTTPRouteRewriteHost",
        objects=rules(
            rule("/one", rewrite_to("hostname: one.example.org")),
            rule("/two", f"{rewrite_to('hostname: two.example.org')}, {edit_request(_MORE)}"),
        ),
        exchanges=(
            (Ask(path="/one"), Want(backend="echo-v1", host="one.example.org", path="/one")),
            (Ask(path="/two"), Want(backend="echo-v1", host="two.example.org", sent=_EDITED)),
        ),
    ),
    Case(
        name="HTTPRouteBackendURLRewrite",
        objects=rules(
            rule("/a", "", on_backend(rewrite_to(f"hostname: b.example.org, {PREFIX}"))),
        ),
        exchanges=(
            (
                Ask(path="/a/x"),
                Want(backend="echo-v1", host="b.example.org", path="/replacement-prefix/x"),
            ),
        ),
    ),
    Case(
        name="HTTPRouteRequestMirror",
        objects=rules(
            rule("/mirror", _MIRROR % (V2, "")),
            rule("/edited", f"{edit_request(_MORE)}, {_MIRROR % (V2, '')}"),
        ),
        exchanges=(
            (Ask(path="/mirror"), Want(backend="echo-v1", mirrors=("echo-v2",))),
            (Ask(path="/edited"), Want(backend="echo-v1", mirrors=("echo-v2",), sent=_EDITED)),
        ),
    ),
    Case(
        name="HTTPRouteRequestMultipleMirrors",
        objects=rules(rule("/m", f"{_MIRROR % (V2, '')}, {_MIRROR % (to('echo-v3'), '')}")),
        exchanges=((Ask(path="/m"), Want(backend="echo-v1", mirrors=("echo-v2", "echo-v3"))),),
    ),
    Case(
        name="HTTPRouteCORS",
        objects=rules(
            rule("/cors-1", _CORS),
            rule("/cors-wild", _WILD % ""),
            rule("/cors-cred", _WILD % ", allowCredentials: true"),
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
