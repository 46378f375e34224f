"""Cases about which rule takes a request."""

from __future__ import annotations

from tests.unit.mesh.routing.conformance.model import (
    CONSUMER,
    NAMESPACE,
    NOT_FOUND,
    Ask,
    Case,
    State,
    Want,
    route,
    services,
    to,
    v,
)

V1, V2, V3 = to("echo-v1"), to("echo-v2"), to("echo-v3")

_MATCHING = route(f"""\
  rules:
  - matches:
    - {{path: {{type: PathPrefix, value: /}}}}
    - {{headers: [{{name: version, value: one}}]}}
    backendRefs: [{V1}]
  - matches:
    - {{path: {{type: PathPrefix, value: /v2}}}}
    - {{headers: [{{name: version, value: two}}]}}
    backendRefs: [{V2}]
""")
_TWO = (("version", "two"),)
_MATCHING_ASKS = (
    (Ask(path="/"), v(1)),
    (Ask(path="/example"), v(1)),
    (Ask(path="/", headers=(("version", "one"),)), v(1)),
    (Ask(path="/v2"), v(2)),
    (Ask(path="/v2/"), v(2)),
    (Ask(path="/v2/example"), v(2)),
    (Ask(path="/", headers=_TWO), v(2)),
    (Ask(path="/v2example"), v(1)),
    (Ask(path="/foo/v2/example"), v(1)),
)
_QUERY = route(f"""\
  rules:
  - matches: [{{queryParams: [{{name: animal, value: whale}}]}}]
    backendRefs: [{V1}]
  - matches: [{{queryParams: [{{name: animal, value: dolphin}}]}}]
    backendRefs: [{V2}]
  - matches:
    - queryParams: [{{name: animal, value: dolphin}}, {{name: color, value: blue}}]
    - queryParams: [{{name: ANIMAL, value: Whale}}]
    backendRefs: [{V3}]
  - matches: [{{path: {{type: PathPrefix, value: /path1}},
               queryParams: [{{name: animal, value: whale}}]}}]
    backendRefs: [{V1}]
  - matches: [{{headers: [{{name: version, value: one}}],
               queryParams: [{{name: animal, value: whale}}]}}]
    backendRefs: [{V2}]
  - matches: [{{path: {{type: PathPrefix, value: /path5}}}}]
    backendRefs: [{V1}]
  - matches: [{{path: {{type: PathPrefix, value: /path5}},
               queryParams: [{{name: animal, value: hydra}}]}}]
    backendRefs: [{V3}]
""")
_QUERY_ASKS = (
    (Ask(path="/?animal=whale"), v(1)),
    (Ask(path="/?animal=dolphin"), v(2)),
    (Ask(path="/?animal=whale&otherparam=irrelevant"), v(1)),
    (Ask(path="/?animal=dolphin&color=yellow"), v(2)),
    (Ask(path="/?animal=dolphin&color=blue"), v(3)),
    (Ask(path="/?ANIMAL=Whale"), v(3)),
    (Ask(path="/?animal=dolphin&animal=whale"), v(2)),
    (Ask(path="/?color=blue"), NOT_FOUND),
    (Ask(path="/?animal=dog"), NOT_FOUND),
    (Ask(path="/?animal=whaledolphin"), NOT_FOUND),
    (Ask(path="/"), NOT_FOUND),
    (Ask(path="/path1?animal=whale"), v(1)),
    (Ask(path="/?animal=whale", headers=(("version", "one"),)), v(2)),
    (Ask(path="/path5?animal=hydra"), v(3)),
    (Ask(path="/path5?animal=whale"), v(1)),
)
_HEADERS = route(f"""\
  rules:
  - matches: [{{headers: [{{name: version, value: one}}]}}]
    backendRefs: [{V1}]
  - matches: [{{headers: [{{name: Version, value: two}}]}}]
    backendRefs: [{V2}]
  - matches: [{{headers: [{{name: version, value: two}}, {{name: Color, value: orange}}]}}]
    backendRefs: [{V1}]
  - matches:
    - {{headers: [{{name: color, value: blue}}]}}
    - {{headers: [{{name: color, value: green}}]}}
    backendRefs: [{V1}]
  - matches:
    - {{headers: [{{name: color, value: red}}]}}
    - {{headers: [{{name: color, value: yellow}}]}}
    backendRefs: [{V2}]
""")
_HEADER_ASKS = (
    (Ask(headers=(("version", "one"),)), v(1)),
    (Ask(headers=_TWO), v(2)),
    (Ask(headers=(*_TWO, ("color", "orange"))), v(1)),
    (Ask(headers=(("color", "blue"),)), v(1)),
    (Ask(headers=(("color", "green"),)), v(1)),
    (Ask(headers=(("color", "red"),)), v(2)),
    (Ask(headers=(("color", "yellow"),)), v(2)),
    (Ask(headers=(("color", "purple"),)), NOT_FOUND),
    (Ask(headers=(("version", "two,orange"),)), NOT_FOUND),
    (Ask(headers=(("colorversion", "one"),)), NOT_FOUND),
    (Ask(), NOT_FOUND),
)
_METHODS = route(f"""\
  rules:
  - matches: [{{method: POST}}]
    backendRefs: [{V1}]
  - matches: [{{method: GET}}]
    backendRefs: [{V2}]
  - matches: [{{path: {{value: /path1}}, method: GET}}]
    backendRefs: [{V1}]
  - matches: [{{headers: [{{name: version, value: one}}], method: PUT}}]
    backendRefs: [{V2}]
  - matches: [{{path: {{value: /path2}}, method: POST, headers: [{{name: version, value: two}}]}}]
    backendRefs: [{V3}]
  - matches: [{{path: {{value: /path5}}}}]
    backendRefs: [{V1}]
  - matches: [{{path: {{value: /path5}}, method: PATCH}}]
    backendRefs: [{V2}]
  - matches: [{{path: {{value: /path5}}, headers: [{{name: version, value: four}}]}}]
    backendRefs: [{V3}]
""")
_METHOD_ASKS = (
    (Ask(method="POST"), v(1)),
    (Ask(method="GET"), v(2)),
    (Ask(method="HEAD"), NOT_FOUND),
    (Ask(path="/path1", method="GET"), v(1)),
    (Ask(method="PUT", headers=(("version", "one"),)), v(2)),
    (Ask(path="/path2", method="POST", headers=_TWO), v(3)),
    (Ask(path="/path5", method="PATCH"), v(2)),
    (Ask(path="/path5", method="PATCH", headers=(("version", "four"),)), v(2)),
    (Ask(path="/path5", method="GET", headers=(("version", "four"),)), v(3)),
)
_PATH_ORDER = route(f"""\
  rules:
  - matches: [{{path: {{type: PathPrefix, value: /match}}}}]
    backendRefs: [{V3}]
  - matches: [{{path: {{type: Exact, value: /match}}}}]
    backendRefs: [{V1}]
  - matches: [{{path: {{type: PathPrefix, value: /match/prefix/one/}}}}]
    backendRefs: [{V2}]
  - matches: [{{path: {{type: Exact, value: /match/exact}}}}]
    backendRefs: [{V1}]
  - matches: [{{path: {{type: PathPrefix, value: /match/exact}}}}]
    backendRefs: [{V2}]
  - matches: [{{path: {{type: PathPrefix, value: /match/prefix}}}}]
    backendRefs: [{V1}]
""")
_ACROSS = route(
    f"  rules:\n  - matches: [{{path: {{value: /}}}}]\n    backendRefs: [{V1}]\n",
    name="part1",
) + route(
    "  rules:\n"
    "  - matches:\n"
    "    - {path: {value: /v2}}\n"
    "    - {headers: [{name: version, value: two}]}\n"
    f"    backendRefs: [{V2}]\n",
    name="part2",
)
_GRPC_ECHO = "gateway_api_conformance.echo_basic.grpcecho.GrpcEcho"
_GRPC = (("content-type", "application/grpc"),)
_GRPC_MISS = Want(status=200, headers={"grpc-status": "12"})
_GRPC_METHODS = route(
    f"""\
  rules:
  - matches: [{{method: {{service: {_GRPC_ECHO}, method: Echo}}}}]
    backendRefs: [{V1}]
  - matches: [{{method: {{service: {_GRPC_ECHO}, method: EchoTwo}}}}]
    backendRefs: [{V2}]
""",
    kind="GRPCRoute",
)
_GRPC_HEADERS = route(
    f"""\
  rules:
  - matches: [{{headers: [{{name: version, value: one}}]}}]
    backendRefs: [{V1}]
  - matches: [{{headers: [{{name: version, value: two}}]}}]
    backendRefs: [{V2}]
  - matches: [{{headers: [{{name: version, value: two}}, {{name: color, value: orange}}]}}]
    backendRefs: [{V3}]
""",
    kind="GRPCRoute",
)


def _call(method: str, *headers: tuple[str, str]) -> Ask:
    return Ask(path=f"/{_GRPC_ECHO}/{method}", method="POST", port=7070, headers=_GRPC + headers)


def _simple(name: str, backend: str = V1) -> str:
    return route(f"  rules: [{{backendRefs: [{backend}]}}]\n", name=name)


_NAMED = route(f"""\
  rules:
  - name: first
    matches: [{{path: {{value: /named}}}}]
    backendRefs: [{V1}]
  - matches: [{{path: {{value: /unnamed}}}}]
    backendRefs: [{V2}]
""")
_NAMED_ASKS = ((Ask(path="/named"), v(1)), (Ask(path="/unnamed"), v(2)))
_ECHO = Want(backend="echo")

CASES = (
    Case(name="MeshBasic", objects=services(), exchanges=((Ask(), _ECHO),)),
    Case(
        name="MeshTrafficSplit",
        objects=services()
        + route(
            "  rules:\n"
            f"  - matches: [{{path: {{type: Exact, value: /v1}}}}]\n    backendRefs: [{V1}]\n"
            f"  - matches: [{{path: {{type: Exact, value: /v2}}}}]\n    backendRefs: [{V2}]\n"
        ),
        exchanges=((Ask(path="/v1"), v(1)), (Ask(path="/v2"), v(2)), (Ask(path="/v3"), NOT_FOUND)),
    ),
    Case(
        name="MeshHTTPRouteSimpleSameNamespace",
        objects=services() + _simple("mesh"),
        exchanges=((Ask(), v(1)), (Ask(path="/any/thing"), v(1))),
        states=(
            State(type="Accepted", status=True, reason="Accepted"),
            State(type="ResolvedRefs", status=True, reason="ResolvedRefs"),
        ),
    ),
    Case(name="MeshHTTPRouteMatching", objects=services() + _MATCHING, exchanges=_MATCHING_ASKS),
    Case(name="HTTPRouteMatching", objects=services() + _MATCHING, exchanges=_MATCHING_ASKS),
    Case(
        name="MeshHTTPRouteQueryParamMatching", objects=services() + _QUERY, exchanges=_QUERY_ASKS
    ),
    Case(name="HTTPRouteQueryParamMatching", objects=services() + _QUERY, exchanges=_QUERY_ASKS),
    Case(name="HTTPRouteHeaderMatching", objects=services() + _HEADERS, exchanges=_HEADER_ASKS),
    Case(name="HTTPRouteMethodMatching", objects=services() + _METHODS, exchanges=_METHOD_ASKS),
    Case(
        name="HTTPRouteExactPathMatching",
        objects=services()
        + route(
            "  rules:\n"
            f"  - matches: [{{path: {{type: Exact, value: /one}}}}]\n    backendRefs: [{V1}]\n"
            f"  - matches: [{{path: {{type: Exact, value: /two}}}}]\n    backendRefs: [{V2}]\n"
        ),
        exchanges=(
            (Ask(path="/one"), v(1)),
            (Ask(path="/two"), v(2)),
            (Ask(path="/"), NOT_FOUND),
            (Ask(path="/one/example"), NOT_FOUND),
            (Ask(path="/two/"), NOT_FOUND),
            (Ask(path="/Two"), NOT_FOUND),
        ),
    ),
    Case(
        name="HTTPRoutePathMatchOrder",
        objects=services() + _PATH_ORDER,
        exchanges=(
            (Ask(path="/match/exact"), v(1)),
            (Ask(path="/match/exact/one"), v(2)),
            (Ask(path="/match"), v(1)),
            (Ask(path="/match/prefix/one/any"), v(2)),
            (Ask(path="/match/prefix/two/any"), v(1)),
            (Ask(path="/match/any"), v(3)),
        ),
    ),
    Case(
        name="HTTPRouteMatchingAcrossRoutes",
        objects=services() + _ACROSS,
        exchanges=(
            (Ask(path="/"), v(1)),
            (Ask(path="/example"), v(1)),
            (Ask(path="/v2example"), v(1)),
            (Ask(path="/v2"), v(2)),
            (Ask(path="/v2/example"), v(2)),
            (Ask(path="/", headers=_TWO), v(2)),
        ),
    ),
    Case(
        name="HTTPRouteSimpleSameNamespace",
        objects=services() + _simple("mesh"),
        exchanges=((Ask(), v(1)),),
    ),
    Case(name="MeshHTTPRouteNamedRule", objects=services() + _NAMED, exchanges=_NAMED_ASKS),
    Case(name="HTTPRouteNamedRule", objects=services() + _NAMED, exchanges=_NAMED_ASKS),
    Case(
        name="MeshPorts",
        objects=services()
        + route(f"  rules: [{{backendRefs: [{V1}]}}]\n", name="port", parent="name: echo, port: 80")
        + route(f"  rules: [{{backendRefs: [{V2}]}}]\n", name="all", parent="name: echo-v1"),
        exchanges=(
            (Ask(), v(1)),
            (Ask(port=8080), _ECHO),
            (Ask(service="echo-v1"), v(2)),
            (Ask(service="echo-v1", port=8080), v(2)),
        ),
    ),
    Case(
        name="MeshFrontendHostname",
        objects=services() + route(f"  rules: [{{backendRefs: [{V2}]}}]\n", parent="name: echo-v1"),
        exchanges=(
            (Ask(service="echo-v1", host="echo-v2"), v(2)),
            (Ask(service="echo-v2", host="echo-v1"), v(2)),
            (Ask(service="echo", host="echo-v1"), _ECHO),
        ),
    ),
    Case(
        name="MeshConsumerRoute",
        objects=services()
        + route(
            "  rules:\n  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier:"
            " {set: [{name: x-header-set, value: set}]}}]\n"
            f"    backendRefs: [{V1}]\n",
            namespace=CONSUMER,
            parent="name: echo-v1",
        ),
        exchanges=(
            (
                Ask(service="echo-v1", caller=CONSUMER),
                Want(backend="echo-v1", headers={"x-header-set": "set"}),
            ),
            (
                Ask(service="echo-v1", caller=NAMESPACE),
                Want(backend="echo-v1", unset=("x-header-set",)),
            ),
        ),
    ),
    Case(
        name="GRPCExactMethodMatching",
        objects=services() + _GRPC_METHODS,
        exchanges=(
            (_call("Echo"), v(1)),
            (_call("EchoTwo"), v(2)),
            (_call("EchoThree"), _GRPC_MISS),
        ),
    ),
    Case(
        name="GRPCRouteHeaderMatching",
        objects=services() + _GRPC_HEADERS,
        exchanges=(
            (_call("Echo", ("version", "one")), v(1)),
            (_call("Echo", ("version", "two")), v(2)),
            (_call("Echo", ("version", "two"), ("color", "orange")), v(3)),
            (_call("Echo", ("version", "three")), _GRPC_MISS),
        ),
    ),
    Case(
        name="GRPCRouteNamedRule",
        objects=services()
        + route(
            f"  rules: [{{name: named, matches: [{{method: {{service: {_GRPC_ECHO}}}}}],"
            f" backendRefs: [{V1}]}}]\n",
            kind="GRPCRoute",
        ),
        exchanges=((_call("Echo"), v(1)),),
    ),
)
