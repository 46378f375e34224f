"""AuthorizationPolicy, RequestAuthentication and providers: what is kept and what is refused."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

import pytest

from mesh.model.authentication import ClaimToHeader, RequestAuthentication, TokenHeader
from mesh.model.policy import (
    AuthorizationPolicy,
    NamedMatch,
    PolicyScope,
    PolicyTarget,
    RequestMatch,
    StringMatch,
    TargetKind,
)
from mesh.model.provider import ProviderProtocol, ProviderTls
from mesh.model.snapshot import MeshSnapshot
from mesh.sources.file import FileSource
from mesh.state.delta import apply_delta, decode_delta, diff, encode_delta
from mesh.state.reducer import reduce
from tests.unit.mesh.jwt.issuer import jwks, signer


def read(tmp_path: Path, text: str) -> MeshSnapshot:
    (tmp_path / "mesh.yaml").write_text(text)
    return reduce(FileSource(tmp_path).load_once(), None)


def an_object(kind: str, spec: str, annotations: str = "{}") -> str:
    head = f"apiVersion: security.istio.io/v1\nkind: {kind}\n"
    meta = f"metadata: {{name: x, namespace: shop, annotations: {annotations}}}\n"
    return f"{head}{meta}spec:\n{indent(spec, '  ')}\n"


def a_policy(tmp_path: Path, spec: str) -> AuthorizationPolicy:
    snapshot = read(tmp_path, an_object("AuthorizationPolicy", spec))
    assert snapshot.policies, snapshot.problems
    (policy,) = snapshot.policies.values()
    return policy


def an_authentication(
    tmp_path: Path, spec: str, annotations: str = "{}"
) -> tuple[RequestAuthentication, list[str]]:
    snapshot = read(tmp_path, an_object("RequestAuthentication", spec, annotations))
    assert snapshot.request_authentications, snapshot.problems
    (found,) = snapshot.request_authentications.values()
    return found, [problem.message for problem in snapshot.problems]


def exact(value: str) -> StringMatch:
    return StringMatch(kind="exact", value=value)


FULL = """\
action: DENY
targetRefs:
- {kind: Service, name: api}
- {group: gateway.networking.k8s.io, kind: Gateway, name: wp}
rules:
- from:
  - source:
      requestPrincipals: ["https://id/*"]
      notRemoteIpBlocks: [10.0.0.0/8]
      namespaces: [web]
  to:
  - operation:
      hosts: [Example.COM, "*.x:80"]
      methods: [GET]
      paths: ["/a/{*}/b/{**}", /c*]
      notPaths: [/c/d]
      ports: ["80"]
  when:
  - {key: "request.headers[X-Tenant]", values: [a, "b*"]}
  - {key: "request.auth.claims[realm][roles]", notValues: [admin]}
  - {key: remote.ip, values: [192.0.2.1]}
  - {key: connection.sni, values: ["*.x"]}
  - {key: request.auth.audiences, values: [shop]}
  - {key: request.auth.presenter, values: [cli]}
  - {key: request.auth.principal, notValues: ["*"]}
"""


def test_a_policy_is_for_what_it_names(tmp_path: Path) -> None:
    policy = a_policy(tmp_path, FULL)
    assert policy.scope is PolicyScope.TARGET
    assert policy.targets == (
        PolicyTarget(kind=TargetKind.SERVICE, namespace="shop", name="api"),
        PolicyTarget(kind=TargetKind.GATEWAY, namespace="shop", name="wp"),
    )


def test_the_l7_part_of_a_rule_is_kept(tmp_path: Path) -> None:
    (rule,) = a_policy(tmp_path, FULL).rules
    (source,), (operation,) = rule.sources, rule.operations
    assert source.namespaces == (exact("web"),)
    assert source.request is not None
    assert source.request.request_principals == (StringMatch(kind="prefix", value="https://id/"),)
    assert [str(net) for net in source.request.not_remote_ips] == ["10.0.0.0/8"]
    assert operation.dst_ports == {80}
    assert operation.request == RequestMatch(
        hosts=(exact("example.com"), StringMatch(kind="suffix", value=".x:80")),
        methods=(exact("GET"),),
        paths=(
            StringMatch(kind="template", value="/a/{*}/b/{**}"),
            StringMatch(kind="prefix", value="/c"),
        ),
        not_paths=(exact("/c/d"),),
    )


def test_the_l7_conditions_of_a_rule_are_kept(tmp_path: Path) -> None:
    (rule,) = a_policy(tmp_path, FULL).rules
    requests = [condition.request for condition in rule.conditions]
    tenant = (exact("a"), StringMatch(kind="prefix", value="b"))
    assert requests[0] == RequestMatch(header=NamedMatch(name=("x-tenant",), values=tenant))
    way = NamedMatch(name=("realm", "roles"), not_values=(exact("admin"),))
    assert requests[1] == RequestMatch(claim=way)
    assert requests[2] is not None
    assert [str(net) for net in requests[2].remote_ips] == ["192.0.2.1/32"]
    assert requests[6] == RequestMatch(not_request_principals=(StringMatch(kind="present"),))


def test_the_fields_of_a_rule_that_need_a_waypoint_are_named(tmp_path: Path) -> None:
    (rule,) = a_policy(tmp_path, FULL).rules
    assert rule.l7_fields == (
        "from[0].source.requestPrincipals",
        "from[0].source.notRemoteIpBlocks",
        "to[0].operation.hosts",
        "to[0].operation.methods",
        "to[0].operation.paths",
        "to[0].operation.notPaths",
        "when[0].request.headers[X-Tenant]",
        "when[1].request.auth.claims[realm][roles]",
        "when[2].remote.ip",
        "when[3].connection.sni",
        "when[4].request.auth.audiences",
        "when[5].request.auth.presenter",
        "when[6].request.auth.principal",
    )


def test_a_snapshot_with_everything_survives_the_wire(tmp_path: Path) -> None:
    rules = "targetRefs: [{kind: Service, name: api}]\njwtRules:\n- {issuer: https://id}\n"
    text = "---\n".join(
        (
            an_object("AuthorizationPolicy", FULL),
            an_object("RequestAuthentication", rules),
            CONFIG.format(service="ext.shop"),
        )
    )
    snapshot = read(tmp_path, text)
    assert snapshot.request_authentications
    assert snapshot.settings.providers
    empty = MeshSnapshot(revision=0)
    delta = decode_delta(encode_delta(diff(empty, snapshot)))
    assert apply_delta(empty, delta) == snapshot
    back = decode_delta(encode_delta(diff(snapshot, empty)))
    assert apply_delta(snapshot, back) == empty


def test_what_nobody_can_judge_is_named(tmp_path: Path) -> None:
    spec = "rules:\n- when:\n  - {key: experimental.envoy.filters.x, values: [a]}\n"
    snapshot = read(tmp_path, an_object("AuthorizationPolicy", "action: DENY\n" + spec))
    (policy,) = snapshot.policies.values()
    assert policy.rules[0].unsupported == ("when[0].experimental.envoy.filters.x",)
    assert policy.rules[0].l7_fields == policy.rules[0].unsupported
    assert any("cannot be judged anywhere" in problem.message for problem in snapshot.problems)


def _to(field: str) -> str:
    return f"rules:\n- to:\n  - operation:\n      {field}\n"


def _when(key: str) -> str:
    return f"rules:\n- when:\n  - key: {key}\n    values: [a]\n"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (_to("paths: ['/a/{*}b']"), "stand alone in their segment"),
        (_to("paths: ['/a/{x}']"), "stand alone in their segment"),
        (_to("paths: ['/a*/{*}']"), "stand alone in their segment"),
        (_to("paths: ['/{**}/{*}']"), "no other operator may follow {**}"),
        (_to("paths: ['a/{*}']"), "a path starts with '/'"),
        (_to("paths: [admin]"), "a path starts with '/'"),
        (_to("paths: ['/a?b']"), "without query"),
        (_to("paths: ['/a*b']"), "only at the start or at the end"),
        (_to("notPaths: []"), "the list is empty"),
        (_to("methods: [get]"), "methods are written 'GET'"),
        (_to("hosts: ['https://x']"), "without scheme and path"),
        (_to("hosts: ['']"), "an empty string matches nothing"),
        (_when('"request.headers[a b]"'), "is not a header name"),
        (_when('"request.headers[]"'), "unknown key"),
        (_when('"request.auth.claims[a]b"'), "unknown key"),
        (_when('"request.auth.claims"'), "did you mean 'request.auth.claims['?"),
        (_when("remote.ip"), "is not an IP address or CIDR block"),
        ("targetRefs: [{kind: Pod, name: a}]", "'Pod' cannot be a target"),
        ("targetRefs: [{kind: Gateway, name: a}]", "'gateway.networking.k8s.io', not ''"),
        ("targetRefs: [{kind: Service, name: a, namespace: b}]", "the policy's own namespace"),
    ],
)
def test_policies_that_are_refused(tmp_path: Path, spec: str, message: str) -> None:
    snapshot = read(tmp_path, an_object("AuthorizationPolicy", spec))
    assert not snapshot.policies
    (problem,) = snapshot.problems
    assert message in problem.message
    assert "/mesh.yaml:" in problem.where


def test_targets_are_checked_against_the_mesh(tmp_path: Path) -> None:
    spec = """\
targetRefs:
- {kind: Service, name: gone}
- {group: gateway.networking.k8s.io, kind: GatewayClass, name: meshnode-waypoint}
- {group: networking.istio.io, kind: ServiceEntry, name: out}
"""
    snapshot = read(tmp_path, an_object("AuthorizationPolicy", spec))
    messages = [problem.message for problem in snapshot.problems]
    assert "there is no Service shop/gone" in messages[0]
    assert "for namespace meshnode-system only" in messages[1]
    assert "ServiceEntry is not supported" in messages[2]


def _jwt(fields: str) -> str:
    return f"jwtRules:\n- issuer: https://id.example\n{indent(fields, '  ')}\n"


def test_a_jwt_rule_in_full(tmp_path: Path) -> None:
    fields = """\
audiences: [shop]
jwksUri: https://id.example/keys
fromHeaders: [{name: X-Token, prefix: "tok "}]
fromParams: [jwt]
fromCookies: [session]
forwardOriginalToken: true
outputPayloadToHeader: X-Payload
outputClaimToHeaders: [{header: X-Tenant, claim: realm.tenant}]
spaceDelimitedClaims: [groups]
timeout: 2s
"""
    found, messages = an_authentication(tmp_path, _jwt(fields))
    (rule,) = found.rules
    assert (rule.issuer, rule.audiences) == ("https://id.example", ("shop",))
    assert rule.from_headers == (TokenHeader(name="x-token", prefix="tok "),)
    assert (rule.from_params, rule.from_cookies) == (("jwt",), ("session",))
    assert rule.output_claims == (ClaimToHeader(header="x-tenant", claim=("realm", "tenant")),)
    assert (rule.output_payload_to_header, rule.timeout_s) == ("x-payload", 2.0)
    assert rule.forward_original_token
    assert rule.space_delimited == ("groups",)
    assert messages == ["tokens are verified by waypoints only: give it targetRefs"]


def test_keys_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    bad = {"kty": "oct", "k": "c2VjcmV0"}
    text = jwks(bad, signer("ES256")).decode()
    _, messages = an_authentication(tmp_path, _jwt(f"jwks: '{text}'"))
    assert "jwtRules[0].jwks: keys[0] is left out: symmetric keys are refused" in messages
    _, messages = an_authentication(tmp_path, _jwt(f"jwks: '{jwks(bad).decode()}'"))
    assert "jwtRules[0].jwks holds no usable key: its tokens are all refused" in messages


def test_plain_http_must_be_allowed(tmp_path: Path) -> None:
    spec = _jwt("jwksUri: http://id.example/keys")
    found, _ = an_authentication(tmp_path, spec, '{meshnode.io/allow-http-jwks: "true"}')
    assert found.rules[0].allow_http


@pytest.mark.parametrize(
    ("spec", "where", "message"),
    [
        ("jwtRules: [{issuer: ''}]", 5, "must not be empty"),
        ("jwtRules: [{issuer: me}]", 5, "the issuer is asked for its keys"),
        ("jwtRules: [{issuer: 'https://[::'}]", 5, "is not an https URL"),
        (_jwt("jwksUri: http://x/keys"), 7, "must not come over plain HTTP"),
        (_jwt("jwksUri: ftp://x/keys"), 7, "is not an https URL"),
        (_jwt("jwksUri: https://"), 7, "is not an https URL"),
        (_jwt("jwks: 'no'"), 7, "not a JSON Web Key Set"),
        (_jwt("jwks: '{}'\njwksUri: https://x"), 7, "exclude each other"),
        (_jwt("fromHeaders: [{name: 'a b'}]"), 7, "is not a header name"),
        (_jwt("fromParams: ['']"), 7, "an empty string"),
        (_jwt("outputPayloadToHeader: Host"), 7, "is not for claims"),
        (_jwt("outputClaimToHeaders: [{header: x, claim: a..b}]"), 7, "is not a claim"),
        (
            _jwt("outputPayloadToHeader: x\noutputClaimToHeaders: [{header: X, claim: a}]"),
            8,
            "already written",
        ),
        (_jwt("timeout: soon"), 7, "is not a duration"),
        (_jwt("jwksURI: https://x"), 7, "did you mean 'jwksUri'?"),
    ],
)
def test_authentications_that_are_refused(
    tmp_path: Path, spec: str, where: int, message: str
) -> None:
    snapshot = read(tmp_path, an_object("RequestAuthentication", spec))
    assert not snapshot.request_authentications
    (problem,) = snapshot.problems
    assert message in problem.message
    assert problem.where.endswith(f"/mesh.yaml:{where}")


CONFIG = """\
apiVersion: meshnode.io/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec:
  extensionProviders:
  - name: ask
    envoyExtAuthzHttp:
      service: "{service}"
      port: 9000
      timeout: 500ms
      pathPrefix: /check
      failOpen: true
      statusOnError: "503"
      includeRequestHeadersInCheck: [Cookie, x-*]
      includeAdditionalHeadersInCheck: {{X-By: mesh}}
      headersToUpstreamOnAllow: [authorization]
      headersToDownstreamOnDeny: [location]
      includeRequestBodyInCheck: {{maxRequestBytes: 1024, allowPartialMessage: true}}
"""


def test_an_external_authorizer(tmp_path: Path) -> None:
    custom = "action: CUSTOM\nprovider: {name: ask}\ntargetRefs: [{kind: Service, name: a}]\n"
    text = CONFIG.format(service="ext.shop") + "---\n" + an_object("AuthorizationPolicy", custom)
    snapshot = read(tmp_path, text)
    (provider,) = snapshot.settings.providers
    assert (provider.name, provider.service, provider.port) == ("ask", "ext.shop", 9000)
    assert provider.protocol is ProviderProtocol.HTTP
    assert (provider.timeout_s, provider.path_prefix) == (0.5, "/check")
    assert (provider.fail_open, provider.error_status) == (True, 503)
    assert provider.check_headers == (exact("cookie"), StringMatch(kind="prefix", value="x-"))
    assert provider.extra_headers == (("x-by", "mesh"),)
    assert provider.body is not None
    assert not any("no provider" in problem.message for problem in snapshot.problems)
    alone = read(tmp_path, an_object("AuthorizationPolicy", custom))
    assert any("there is no provider 'ask'" in problem.message for problem in alone.problems)


def test_a_provider_without_a_service_is_refused(tmp_path: Path) -> None:
    snapshot = read(tmp_path, CONFIG.format(service=""))
    (problem,) = snapshot.problems
    assert "the service must not be empty" in problem.message


@pytest.mark.parametrize(
    ("service", "tls", "message"),
    [
        ("shop/guard", "{}", "a service of the mesh needs a serverName"),
        ("guard.example", "{caCertificates: nothing}", "no certificates in PEM format"),
        ("guard.example", "{insecure: true}", "tls"),
    ],
)
def test_tls_towards_a_provider_that_proves_nothing_is_refused(
    tmp_path: Path, service: str, tls: str, message: str
) -> None:
    snapshot = read(tmp_path, CONFIG.format(service=service) + f"      tls: {tls}\n")
    assert snapshot.settings.providers == ()
    (problem,) = snapshot.problems
    assert message in problem.message


def test_tls_towards_a_provider(tmp_path: Path) -> None:
    snapshot = read(tmp_path, CONFIG.format(service="guard.example") + "      tls: {}\n")
    (provider,) = snapshot.settings.providers
    assert provider.tls == ProviderTls(server_name="guard.example")
