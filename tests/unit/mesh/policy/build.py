"""Builders and Hypothesis strategies: a test spells only what it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network

from hypothesis import strategies as st

from mesh.model.address import IPNetwork, SocketAddress, parse_ip
from mesh.model.identity import SpiffeId
from mesh.model.policy import (
    AuthorizationPolicy,
    L4Match,
    MtlsMode,
    PeerAuthentication,
    PolicyAction,
    PolicyKey,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
    StringMatch,
)
from mesh.model.snapshot import MeshSettings, MeshSnapshot
from mesh.model.verdict import ConnectionFacts
from mesh.model.workload import Workload, WorkloadUid

SETTINGS = MeshSettings(trust_domain="td", trust_domain_aliases=("old",), root_namespace="root")


def text(value: str) -> StringMatch:
    """Parse a string form."""
    if value == "*":
        return StringMatch(kind="present")
    if value.startswith("*"):
        return StringMatch(kind="suffix", value=value[1:])
    if value.endswith("*"):
        return StringMatch(kind="prefix", value=value[:-1])
    return StringMatch(kind="exact", value=value)


def texts(*values: str) -> tuple[StringMatch, ...]:
    """Parse string forms."""
    return tuple(map(text, values))


def rule(*sources: L4Match, to: L4Match | None = None, l7: Sequence[str] = ()) -> Rule:
    """Make a rule from sources."""
    return Rule(sources=sources, operations=(to,) if to else (), l7_fields=tuple(l7))


def policy(
    name: str,
    action: PolicyAction,
    *rules: Rule,
    namespace: str = "shop",
    selector: Mapping[str, str] | None = None,
    dry_run: bool = False,
) -> AuthorizationPolicy:
    """Make an authorization policy; its scope follows from namespace and selector."""
    wide = PolicyScope.MESH if namespace == SETTINGS.root_namespace else PolicyScope.NAMESPACE
    return AuthorizationPolicy(
        key=PolicyKey(f"{namespace}/{name}"),
        namespace=namespace,
        name=name,
        scope=wide if selector is None else PolicyScope.SELECTOR,
        action=action,
        rules=rules,
        selector=selector or {},
        dry_run=dry_run,
    )


def authentication(
    name: str,
    mode: MtlsMode,
    *,
    namespace: str = "shop",
    selector: Mapping[str, str] | None = None,
    ports: Mapping[int, MtlsMode] | None = None,
    created: str = "",
) -> PeerAuthentication:
    """Make a peer authentication."""
    wide = PolicyScope.MESH if namespace == SETTINGS.root_namespace else PolicyScope.NAMESPACE
    return PeerAuthentication(
        key=PolicyKey(f"{namespace}/{name}"),
        namespace=namespace,
        name=name,
        scope=wide if selector is None else PolicyScope.SELECTOR,
        mode=mode,
        selector=selector or {},
        port_modes=ports or {},
        created=created,
    )


def workload(
    name: str,
    *,
    namespace: str = "shop",
    account: str = "default",
    addresses: Sequence[str] = ("10.0.0.1",),
    labels: Mapping[str, str] | None = None,
    waypoint: str | None = None,
    node: str = "n1",
    enrolled: bool = True,
) -> Workload:
    """Make a workload."""
    return Workload(
        uid=WorkloadUid(f"pod/{namespace}/{name}"),
        name=name,
        namespace=namespace,
        service_account=account,
        trust_domain=SETTINGS.trust_domain,
        node=node,
        addresses=tuple(map(parse_ip, addresses)),
        enrolled=enrolled,
        labels=labels or {},
        waypoint=waypoint,
    )


def snapshot(
    *workloads: Workload,
    policies: Sequence[AuthorizationPolicy] = (),
    authentications: Sequence[PeerAuthentication] = (),
    settings: MeshSettings = SETTINGS,
) -> MeshSnapshot:
    """Make a snapshot."""
    return MeshSnapshot(
        revision=1,
        settings=settings,
        workloads={item.uid: item for item in workloads},
        policies={item.key: item for item in policies},
        peer_authentications={item.key: item for item in authentications},
    )


def facts(
    principal: str | None = "td/ns/web/sa/front",
    *,
    src: str = "10.0.0.9",
    dst: str = "10.0.0.1",
    port: int = 80,
) -> ConnectionFacts:
    """Make the facts of a connection; the principal as policies write it."""
    identity = None
    if principal is not None:
        domain, _, namespace, _, account = principal.split("/")
        identity = SpiffeId(trust_domain=domain, namespace=namespace, service_account=account)
    return ConnectionFacts(
        principal=identity,
        src=SocketAddress(parse_ip(src), 0),
        dst=SocketAddress(parse_ip(dst), port),
    )


DOMAINS = ("td", "old", "far")
NAMESPACES = ("shop", "web", "we", "root")
ACCOUNTS = ("default", "front", "wp")
ADDRESSES = ("10.0.0.1", "10.0.0.9", "10.1.0.1", "fd00::1", "fd00:1::9")
NETWORKS: tuple[IPNetwork, ...] = tuple(
    map(ip_network, ("10.0.0.0/8", "10.0.0.9/32", "0.0.0.0/0", "fd00::/16", "fd00::1/128", "::/0"))
)
PORTS = (80, 443, 8080)
LABELS: tuple[dict[str, str], ...] = ({}, {"app": "a"}, {"app": "a", "v": "1"}, {"app": "b"})

_principals = st.builds(
    "{}/ns/{}/sa/{}".format,
    st.sampled_from(DOMAINS),
    st.sampled_from(NAMESPACES),
    st.sampled_from(ACCOUNTS),
)


@st.composite
def _forms(draw: st.DrawFn, base: st.SearchStrategy[str]) -> StringMatch:
    value = draw(base)
    kind = draw(st.sampled_from(("exact", "exact", "prefix", "suffix", "present")))
    if kind == "present":
        return StringMatch(kind=kind)
    cut = draw(st.integers(1, len(value)))
    part = {"exact": value, "prefix": value[:cut], "suffix": value[-cut:]}[kind]
    return StringMatch(kind=kind, value=part)


def _few(item: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.one_of(st.just(()), st.just(()), st.lists(item, max_size=2).map(tuple))


_accounts = st.builds(
    ServiceAccountMatch,
    namespace=st.sampled_from(NAMESPACES),
    name=st.sampled_from(ACCOUNTS),
)
_networks = st.sampled_from(NETWORKS)
_ports = st.one_of(st.just(frozenset[int]()), st.frozensets(st.sampled_from(PORTS), max_size=2))
sources = st.builds(
    L4Match,
    principals=_few(_forms(_principals)),
    not_principals=_few(_forms(_principals)),
    namespaces=_few(_forms(st.sampled_from(NAMESPACES))),
    not_namespaces=_few(_forms(st.sampled_from(NAMESPACES))),
    service_accounts=_few(_accounts),
    not_service_accounts=_few(_accounts),
    trust_domains=_few(_forms(st.sampled_from(DOMAINS))),
    not_trust_domains=_few(_forms(st.sampled_from(DOMAINS))),
    src_ips=_few(_networks),
    not_src_ips=_few(_networks),
)
operations = st.builds(L4Match, dst_ports=_ports, not_dst_ports=_ports)
conditions = st.one_of(
    sources,
    operations,
    st.builds(L4Match, dst_ips=_few(_networks), not_dst_ips=_few(_networks)),
)
rules = st.builds(
    Rule,
    sources=st.lists(sources, max_size=2).map(tuple),
    operations=st.lists(operations, max_size=2).map(tuple),
    conditions=st.lists(conditions, max_size=2).map(tuple),
    l7_fields=st.sampled_from(((), (), (), ("to[0].operation.paths",))),
)


@st.composite
def policy_sets(draw: st.DrawFn) -> tuple[AuthorizationPolicy, ...]:
    """Up to five policies of all scopes, actions and shapes."""
    return tuple(
        policy(
            f"p{number}",
            draw(st.sampled_from((*PolicyAction, PolicyAction.ALLOW, PolicyAction.DENY))),
            *draw(st.lists(rules, max_size=2)),
            namespace=draw(st.sampled_from(("shop", "root", "web"))),
            selector=draw(st.sampled_from((None, *LABELS))),
            dry_run=draw(st.sampled_from((False, False, False, True))),
        )
        for number in range(draw(st.integers(0, 5)))
    )


@st.composite
def authentication_sets(draw: st.DrawFn) -> tuple[PeerAuthentication, ...]:
    """Up to four peer authentications."""
    modes = st.sampled_from(MtlsMode)
    return tuple(
        authentication(
            f"a{number}",
            draw(modes),
            namespace=draw(st.sampled_from(("shop", "root"))),
            selector=(selector := draw(st.sampled_from((None, *LABELS)))),
            ports=draw(st.dictionaries(st.sampled_from(PORTS), modes)) if selector else {},
            created=draw(st.sampled_from(("", "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"))),
        )
        for number in range(draw(st.integers(0, 4)))
    )


@st.composite
def connections(draw: st.DrawFn) -> ConnectionFacts:
    """The facts of a connection."""
    return facts(
        draw(st.one_of(st.none(), _principals, _principals)),
        src=draw(st.sampled_from(ADDRESSES)),
        dst=draw(st.sampled_from(ADDRESSES)),
        port=draw(st.sampled_from((*PORTS, 9999))),
    )
