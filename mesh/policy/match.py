"""Facts of a connection against the fields of a rule, compiled for speed.

Inputs: `L4Match` and `ConnectionFacts`. Output: whether they agree. Rules are compiled once per
snapshot: exact strings become sets, prefixes and suffixes tuples for `str.startswith`, networks
integer masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from mesh.model.address import IPNetwork, SocketAddress
from mesh.model.identity import SpiffeId
from mesh.model.policy import L4Match, Rule, ServiceAccountMatch, StringMatch
from mesh.model.verdict import ConnectionFacts


@dataclass(frozen=True, slots=True)
class TrustDomains:
    """The mesh's own trust domain and its aliases: in a policy they all mean the same."""

    family: tuple[str, ...]

    def equivalents(self, trust_domain: str) -> tuple[str, ...]:
        """Every name a peer of `trust_domain` may be called by in a policy."""
        return self.family if trust_domain in self.family else (trust_domain,)


@dataclass(frozen=True, slots=True)
class Peer:
    """The facts of a connection, taken apart once for all rules.

    The identity's tuples are empty where the peer has no verified identity, so that no positive
    field can hit and every negative one passes.
    """

    principals: tuple[str, ...]
    namespaces: tuple[str, ...]
    accounts: tuple[tuple[str, str], ...]
    trust_domains: tuple[str, ...]
    src_version: int
    src_value: int
    dst_version: int
    dst_value: int
    port: int

    def strings(self, field: str) -> tuple[str, ...]:
        """Return what the peer is called: its `principals`, `namespaces` or `trust_domains`."""
        if field == "principals":
            return self.principals
        return self.namespaces if field == "namespaces" else self.trust_domains


def peer_of(facts: ConnectionFacts, trust_domains: TrustDomains) -> Peer:
    """Take the facts apart."""
    return Peer(*peer_parts(facts.principal, facts.src, facts.dst, trust_domains))


PeerParts = tuple[
    tuple[str, ...],
    tuple[str, ...],
    tuple[tuple[str, str], ...],
    tuple[str, ...],
    int,
    int,
    int,
    int,
    int,
]


def peer_parts(
    principal: SpiffeId | None,
    src: SocketAddress,
    dst: SocketAddress,
    trust_domains: TrustDomains,
) -> PeerParts:
    """Take facts apart into the fields of a `Peer`, in order."""
    src_ip, dst_ip = src.ip, dst.ip
    address = (src_ip.version, int(src_ip), dst_ip.version, int(dst_ip), dst.port)
    if principal is None:
        return ((), (), (), (), *address)
    domains = trust_domains.equivalents(principal.trust_domain)
    namespace, account = principal.namespace, principal.service_account
    names = tuple([f"{domain}/ns/{namespace}/sa/{account}" for domain in domains])
    return (names, (namespace,), ((namespace, account),), domains, *address)


Facts = TypeVar("Facts", bound=Peer)
Seen = TypeVar("Seen", bound=Peer, contravariant=True)


class FieldTest(Protocol[Seen]):
    """One field of a compiled match, over a connection or something that has more facts."""

    @property
    def name(self) -> str:
        """The field as people write it."""
        ...

    def holds(self, peer: Seen, /) -> bool:
        """Say whether the field agrees with the facts."""
        ...


Test = FieldTest[Peer]


@dataclass(frozen=True, slots=True)
class StringSet:
    """Alternatives over strings: a hit is any that fits any value."""

    exact: frozenset[str]
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]
    present: bool

    def hits(self, values: Sequence[str]) -> bool:
        """Say whether one of the values fits."""
        for value in values:
            if value in self.exact or (self.present and value):
                return True
            if self.prefixes and value.startswith(self.prefixes):
                return True
            if self.suffixes and value.endswith(self.suffixes):
                return True
        return False


def compile_strings(matches: Iterable[StringMatch]) -> StringSet:
    """Sort string forms by kind."""
    kinds: dict[str, list[str]] = {"exact": [], "prefix": [], "suffix": [], "present": []}
    for match in matches:
        kinds[match.kind].append(match.value)
    return StringSet(
        frozenset(kinds["exact"]),
        tuple(kinds["prefix"]),
        tuple(kinds["suffix"]),
        bool(kinds["present"]),
    )


@dataclass(frozen=True, slots=True)
class NetworkSet:
    """Alternatives over networks, as (version, shift, network >> shift)."""

    networks: tuple[tuple[int, int, int], ...]

    def hits(self, version: int, value: int) -> bool:
        """Say whether the address lies in one of the networks."""
        return any(v == version and value >> shift == net for v, shift, net in self.networks)


def network_key(network: IPNetwork) -> tuple[int, int, int]:
    """(version, shift, network >> shift), comparable with `address >> shift`."""
    shift = network.max_prefixlen - network.prefixlen
    return network.version, shift, int(network.network_address) >> shift


def _accounts(matches: Iterable[ServiceAccountMatch]) -> frozenset[tuple[str, str]]:
    return frozenset((match.namespace, match.name) for match in matches)


@dataclass(frozen=True, slots=True)
class StringTest:
    """principals, namespaces or trustDomains."""

    name: str
    field: str
    values: StringSet
    wanted: bool

    def holds(self, peer: Peer) -> bool:
        """See `Test`."""
        return self.values.hits(peer.strings(self.field)) is self.wanted


@dataclass(frozen=True, slots=True)
class AccountTest:
    """serviceAccounts."""

    name: str
    values: frozenset[tuple[str, str]]
    wanted: bool

    def holds(self, peer: Peer) -> bool:
        """See `Test`."""
        return (not self.values.isdisjoint(peer.accounts)) is self.wanted


@dataclass(frozen=True, slots=True)
class NetworkTest:
    """Source or destination addresses."""

    name: str
    source: bool
    values: NetworkSet
    wanted: bool

    def holds(self, peer: Peer) -> bool:
        """See `Test`."""
        if self.source:
            return self.values.hits(peer.src_version, peer.src_value) is self.wanted
        return self.values.hits(peer.dst_version, peer.dst_value) is self.wanted


@dataclass(frozen=True, slots=True)
class PortTest:
    """Destination ports."""

    name: str
    values: frozenset[int]
    wanted: bool

    def holds(self, peer: Peer) -> bool:
        """See `Test`."""
        return (peer.port in self.values) is self.wanted


def compile_match(match: L4Match) -> tuple[Test, ...]:
    """Turn a match into the tests that must all hold; fields that say nothing cost nothing."""
    tests: list[Test] = []
    for ports, port_name, wanted in (
        (match.dst_ports, "ports", True),
        (match.not_dst_ports, "notPorts", False),
    ):
        if ports:
            tests.append(PortTest(port_name, ports, wanted))
    tests += _account_tests(match) + _string_tests(match) + _network_tests(match)
    return tuple(tests)


def _account_tests(match: L4Match) -> list[Test]:
    tests: list[Test] = []
    if match.service_accounts:
        tests.append(AccountTest("serviceAccounts", _accounts(match.service_accounts), True))
    if match.not_service_accounts:
        tests.append(
            AccountTest("notServiceAccounts", _accounts(match.not_service_accounts), False)
        )
    return tests


def _string_tests(match: L4Match) -> list[Test]:
    fields = (
        ("principals", "principals", match.principals, True),
        ("notPrincipals", "principals", match.not_principals, False),
        ("namespaces", "namespaces", match.namespaces, True),
        ("notNamespaces", "namespaces", match.not_namespaces, False),
        ("trustDomains", "trust_domains", match.trust_domains, True),
        ("notTrustDomains", "trust_domains", match.not_trust_domains, False),
    )
    return [
        StringTest(name, field, compile_strings(values), wanted)
        for name, field, values, wanted in fields
        if values
    ]


def _network_tests(match: L4Match) -> list[Test]:
    fields = (
        ("ipBlocks", True, match.src_ips, True),
        ("notIpBlocks", True, match.not_src_ips, False),
        ("destination.ip", False, match.dst_ips, True),
        ("not destination.ip", False, match.not_dst_ips, False),
    )
    return [
        NetworkTest(name, source, NetworkSet(tuple(map(network_key, values))), wanted)
        for name, source, values, wanted in fields
        if values
    ]


Alternatives = tuple[tuple[FieldTest[Facts], ...], ...]


@dataclass(frozen=True, slots=True)
class RuleTests(Generic[Facts]):
    """A rule, or of a rule what its point can judge."""

    sources: Alternatives[Facts]
    operations: Alternatives[Facts]
    conditions: tuple[FieldTest[Facts], ...]

    def holds(self, peer: Facts) -> bool:
        """Say whether the rule matches the facts."""
        # Plain loops: a generator per clause would cost more than the tests themselves.
        for test in self.conditions:
            if not test.holds(peer):
                return False
        return _any_holds(self.operations, peer) and _any_holds(self.sources, peer)


def _any_holds(alternatives: Alternatives[Facts], peer: Facts) -> bool:
    if not alternatives:
        return True
    for tests in alternatives:
        for test in tests:
            if not test.holds(peer):
                break
        else:
            return True
    return False


def compile_rule(rule: Rule) -> RuleTests[Peer]:
    """Compile the L4 part of a rule."""
    return compile_rule_with(compile_match, rule)


def compile_rule_with(
    compile_one: Callable[[L4Match], tuple[FieldTest[Facts], ...]], rule: Rule
) -> RuleTests[Facts]:
    """Compile a rule, match by match."""
    return RuleTests(
        tuple(compile_one(match) for match in rule.sources),
        tuple(compile_one(match) for match in rule.operations),
        tuple(test for match in rule.conditions for test in compile_one(match)),
    )
