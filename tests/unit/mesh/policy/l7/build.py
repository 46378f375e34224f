"""Builders and Hypothesis strategies for requests and the policies about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from mesh.model.address import SocketAddress, parse_ip
from mesh.model.claims import Claims, JsonValue
from mesh.model.identity import parse_spiffe_id
from mesh.model.policy import (
    AuthorizationPolicy,
    L4Match,
    NamedMatch,
    PolicyAction,
    PolicyKey,
    PolicyScope,
    PolicyTarget,
    RequestMatch,
    Rule,
    StringMatch,
    TargetKind,
)
from mesh.model.provider import ExternalAuthorizer
from mesh.model.snapshot import MeshSettings, MeshSnapshot
from mesh.model.workload import ServiceKey
from mesh.policy.l7.facts import RequestFacts
from tests.unit.mesh.policy import build

WAYPOINT = "shop/wp"
PROVIDERS = tuple(
    ExternalAuthorizer(name=name, service=f"{name}.shop", port=9000) for name in ("ask", "late")
)
SETTINGS = MeshSettings(
    trust_domain="td", trust_domain_aliases=("old",), root_namespace="root", providers=PROVIDERS
)
SERVICE = PolicyTarget(kind=TargetKind.SERVICE, namespace="shop", name="api")
GATEWAY = PolicyTarget(kind=TargetKind.GATEWAY, namespace="shop", name="wp")
CLASS = PolicyTarget(kind=TargetKind.GATEWAY_CLASS, namespace="", name="meshnode-waypoint")
OTHERS = (
    PolicyTarget(kind=TargetKind.SERVICE, namespace="shop", name="web"),
    PolicyTarget(kind=TargetKind.GATEWAY, namespace="web", name="wp"),
    PolicyTarget(kind=TargetKind.GATEWAY_CLASS, namespace="", name="other"),
    PolicyTarget(kind=TargetKind.SERVICE_ENTRY, namespace="shop", name="api"),
)


def policy(
    name: str,
    action: PolicyAction,
    *rules: Rule,
    targets: Sequence[PolicyTarget] = (SERVICE,),
    namespace: str = "shop",
    provider: str = "",
    dry_run: bool = False,
) -> AuthorizationPolicy:
    """Make a policy with targets."""
    return AuthorizationPolicy(
        key=PolicyKey(f"{namespace}/{name}"),
        namespace=namespace,
        name=name,
        scope=PolicyScope.TARGET,
        action=action,
        rules=rules,
        targets=tuple(targets),
        provider=provider,
        dry_run=dry_run,
    )


def to(request: RequestMatch) -> Rule:
    """Make a rule of one operation."""
    return Rule(operations=(L4Match(request=request),))


def snapshot(*policies: AuthorizationPolicy, settings: MeshSettings = SETTINGS) -> MeshSnapshot:
    """Make a snapshot."""
    return MeshSnapshot(
        revision=1, settings=settings, policies={item.key: item for item in policies}
    )


def facts(
    method: str = "GET",
    path: str = "/",
    *,
    principal: str | None = "td/ns/web/sa/front",
    host: str = "api.shop",
    headers: Mapping[str, str] | None = None,
    claims: Mapping[str, JsonValue] | None = None,
    service: str | None = "shop/api",
    src: str = "10.0.0.9",
    remote: str | None = None,
    port: int = 80,
    sni: str = "",
) -> RequestFacts:
    """Make the facts of a request."""
    return RequestFacts(
        principal=parse_spiffe_id(f"spiffe://{principal}") if principal is not None else None,
        src=SocketAddress(parse_ip(src), 0),
        dst=SocketAddress(parse_ip("10.96.0.1"), port),
        service=None if service is None else ServiceKey(service),
        method=method,
        path=path,
        host=host,
        headers=headers or {},
        remote_ip=None if remote is None else parse_ip(remote),
        claims=None if claims is None else Claims(payload=claims),
        sni=sni,
    )


PATHS = ("/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/a//b", "/b/a/c", "/a/b/")
TEMPLATES = ("/{*}", "/a/{*}", "/a/{**}", "/{*}/b/{**}", "/{**}/c", "/a/{**}/", "/{*}/{*}/c")
METHODS = ("GET", "POST")
HOSTS = ("api.shop", "api.shop:80", "admin.shop", "x")
HEADERS = ("x-tenant", "x-role")
WORDS = ("a", "ab", "abc", "b", "7", "true")
CLAIMS: tuple[Mapping[str, JsonValue] | None, ...] = (
    None,
    {"iss": "i", "sub": "s", "aud": ["a", "b"], "azp": "ab"},
    {"iss": "i", "sub": "ab", "aud": "b", "realm": {"roles": ["a", "ab"]}, "scope": "a b"},
    {"iss": "i", "scope": "ab", "realm": {"roles": "abc"}, "level": 7, "admin": True},
    {"iss": "i", "sub": "s", "realm": "a", "level": {"a": 1}, "admin": [True, {"a": 1}, 7]},
)
WAYS = (("realm", "roles"), ("realm",), ("scope",), ("level",), ("admin",), ("none",))


def few(item: st.SearchStrategy[StringMatch]) -> st.SearchStrategy[tuple[StringMatch, ...]]:
    """Mostly nothing, else up to two."""
    return st.one_of(st.just(()), st.just(()), st.lists(item, max_size=2).map(tuple))


@st.composite
def forms(draw: st.DrawFn, base: Sequence[str]) -> StringMatch:
    """A string form that has a chance to fit one of the values."""
    value = draw(st.sampled_from(base))
    kind = draw(st.sampled_from(("exact", "exact", "prefix", "suffix", "present")))
    cut = draw(st.integers(1, len(value)))
    parts = {"exact": value, "prefix": value[:cut], "suffix": value[-cut:], "present": ""}
    return StringMatch(kind=kind, value=parts[kind])


path_forms = st.one_of(
    forms(PATHS),
    st.sampled_from(TEMPLATES).map(lambda text: StringMatch(kind="template", value=text)),
)
networks = st.one_of(
    st.just(()), st.just(()), st.lists(st.sampled_from(build.NETWORKS), max_size=2).map(tuple)
)


@st.composite
def named(draw: st.DrawFn, names: Sequence[tuple[str, ...]]) -> NamedMatch:
    """A header or claim condition."""
    words = few(forms(WORDS))
    return NamedMatch(name=draw(st.sampled_from(names)), values=draw(words), not_values=draw(words))


source_requests = st.builds(
    RequestMatch,
    request_principals=few(forms(("i/s", "i/ab"))),
    not_request_principals=few(forms(("i/s", "i/ab"))),
    remote_ips=networks,
    not_remote_ips=networks,
)
operation_requests = st.builds(
    RequestMatch,
    hosts=few(forms(HOSTS)),
    not_hosts=few(forms(HOSTS)),
    methods=few(forms(METHODS)),
    not_methods=few(forms(METHODS)),
    paths=few(path_forms),
    not_paths=few(path_forms),
)
condition_requests = st.one_of(
    st.builds(RequestMatch, header=named([(name,) for name in HEADERS])),
    st.builds(RequestMatch, claim=named(WAYS)),
    st.builds(RequestMatch, audiences=few(forms(WORDS)), not_audiences=few(forms(WORDS))),
    st.builds(RequestMatch, presenters=few(forms(WORDS)), not_presenters=few(forms(WORDS))),
    st.builds(RequestMatch, snis=few(forms(HOSTS)), not_snis=few(forms(HOSTS))),
    source_requests,
)


def _with(
    l4: st.SearchStrategy[L4Match], requests: st.SearchStrategy[RequestMatch]
) -> st.SearchStrategy[L4Match]:
    both = st.tuples(l4, st.one_of(st.none(), requests))
    return both.map(
        lambda pair: L4Match(
            **{
                **{name: getattr(pair[0], name) for name in L4Match.__slots__},
                "request": pair[1],
            }
        )
    )


plain = st.just(L4Match())
rules = st.builds(
    Rule,
    sources=st.lists(_with(st.one_of(plain, build.sources), source_requests), max_size=2).map(
        tuple
    ),
    operations=st.lists(
        _with(st.one_of(plain, build.operations), operation_requests), max_size=2
    ).map(tuple),
    conditions=st.lists(_with(plain, condition_requests), max_size=2).map(tuple),
    unsupported=st.sampled_from(((), (), (), (), ("when[0].experimental.envoy.filters.x",))),
)


@st.composite
def policy_sets(draw: st.DrawFn) -> tuple[AuthorizationPolicy, ...]:
    """Up to six policies of all targets, actions and shapes."""
    found = []
    for number in range(draw(st.integers(1, 6))):
        action = draw(st.sampled_from((*PolicyAction, PolicyAction.ALLOW, PolicyAction.DENY)))
        custom = action is PolicyAction.CUSTOM
        targets = st.sampled_from((SERVICE, SERVICE, GATEWAY, CLASS, *OTHERS))
        found.append(
            policy(
                f"p{number}",
                action,
                *draw(st.lists(rules, max_size=2)),
                targets=draw(st.lists(targets, min_size=1, max_size=2)),
                namespace=draw(st.sampled_from(("shop", "root"))),
                provider=draw(st.sampled_from(("ask", "late"))) if custom else "",
                dry_run=draw(st.sampled_from((False, False, False, True))),
            )
        )
    return tuple(found)


@st.composite
def requests(draw: st.DrawFn) -> RequestFacts:
    """The facts of a request."""
    words = st.one_of(st.none(), st.sampled_from((*WORDS, "")))
    headers = {name: value for name in HEADERS if (value := draw(words)) is not None}
    connection = draw(build.connections())
    principal = connection.principal
    return facts(
        draw(st.sampled_from((*METHODS, "PUT"))),
        draw(st.sampled_from(PATHS)) + draw(st.sampled_from(("", "?x=/a"))),
        principal=None if principal is None else principal.principal,
        host=draw(st.sampled_from((*HOSTS, "API.shop.", "Admin.shop:443", "[fd00::1]:80"))),
        headers=headers,
        claims=draw(st.sampled_from(CLAIMS)),
        service=draw(st.sampled_from(("shop/api", "shop/api", "shop/web", "x/y", None))),
        src=draw(st.sampled_from(build.ADDRESSES)),
        remote=draw(st.one_of(st.none(), st.sampled_from(build.ADDRESSES))),
        port=draw(st.sampled_from(build.PORTS)),
        sni=draw(st.sampled_from(("", "api.shop"))),
    )
