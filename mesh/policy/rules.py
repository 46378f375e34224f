"""A list of rules that finds the matching one without looking at all of them.

Every rule is filed under *covering keys*: values of which the connection must show at least one
for the rule to match (a principal, a namespace, a network, a port ...). Of several fields the
rarest key is taken, so a lookup meets only a handful of rules. Rules with nothing but negative
fields have no key and are always looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol

from mesh.model.policy import L4Match, Rule, StringMatch
from mesh.model.verdict import RuleRef
from mesh.policy.match import Facts, Peer, RuleTests, Seen, network_key

Key = tuple[object, ...]
Keys = tuple[Key, ...]
Table = Mapping[object, Sequence[int]]


@dataclass(frozen=True, slots=True)
class FiledRule(Generic[Facts]):
    """A rule with its name and its compiled form."""

    ref: RuleRef
    rule: Rule
    compiled: RuleTests[Facts]


class Tables(Protocol[Seen]):
    """Ordinals of rules, filed under keys."""

    def candidates(self, facts: Seen, /) -> list[Sequence[int]]:
        """Collect the ordinals filed under any key that the facts show."""
        ...


@dataclass(frozen=True, slots=True)
class Filing(Generic[Facts]):
    """How a point files its rules.

    Attributes:
        field_keys: covering keys of each positive field of a match.
        reach: how many connections a kind of key is likely to meet, lowest first.
        tables: files ordinals under the chosen keys.
    """

    field_keys: Callable[[L4Match], list[Keys]]
    reach: Mapping[str, int]
    tables: Callable[[Mapping[Key, list[int]]], Tables[Facts]]


class PeerTables:
    """Rules filed under what a connection shows; keys of other kinds are left to others."""

    __slots__ = (
        "_accounts",
        "_affixes",
        "_any",
        "_domains",
        "_namespaces",
        "_networks",
        "_ports",
        "_principals",
    )

    def __init__(self, by_key: Mapping[Key, list[int]]) -> None:
        # One table per kind of key: a lookup then makes no tuple, and skips kinds nobody uses.
        tables: dict[Key, dict[object, list[int]]] = {}
        for key, ordinals in by_key.items():
            tables.setdefault(key[:-1], {})[key[-1]] = ordinals
        self._ports = tables.get(("port",), {})
        self._principals = tables.get(("principals",), {})
        self._namespaces = tables.get(("namespaces",), {})
        self._accounts = tables.get(("account",), {})
        self._domains = tables.get(("trust_domains",), {})
        self._any = by_key.get(("any",), ())
        self._networks: list[tuple[bool, int, int, Table]] = []
        self._affixes: list[tuple[str, int, Table]] = []
        for kind, table in tables.items():
            match kind:
                case ("src" | "dst" as end, int(version), int(shift)):
                    self._networks.append((end == "src", version, shift, table))
                case ("affix", str(field), int(length)):
                    self._affixes.append((field, length, table))

    def candidates(self, peer: Peer, /) -> list[Sequence[int]]:
        """Collect the ordinals filed under any key that the connection shows."""
        found: list[Sequence[int] | None] = []
        if self._ports:
            found.append(self._ports.get(peer.port))
        for src, version, shift, table in self._networks:
            if src and version == peer.src_version:
                found.append(table.get(peer.src_value >> shift))
            elif not src and version == peer.dst_version:
                found.append(table.get(peer.dst_value >> shift))
        if peer.principals:
            self._by_identity(peer, found)
        return [ordinals for ordinals in found if ordinals]

    def _by_identity(self, peer: Peer, found: list[Sequence[int] | None]) -> None:
        found.append(self._any)
        if self._accounts:
            found.append(self._accounts.get(peer.accounts[0]))
        if self._namespaces:
            found.append(self._namespaces.get(peer.namespaces[0]))
        if self._principals:
            found += map(self._principals.get, peer.principals)
        if self._domains:
            found += map(self._domains.get, peer.trust_domains)
        for field, length, table in self._affixes:
            for value in peer.strings(field):
                found.append(table.get(value[:length] if length >= 0 else value[length:]))


class RuleList(Generic[Facts]):
    """Rules in the order in which they are reported. Immutable after construction."""

    __slots__ = ("_always", "_rules", "_tables")

    def __init__(self, rules: Sequence[FiledRule[Facts]], filing: Filing[Facts]) -> None:
        self._rules = tuple(rules)
        by_key: dict[Key, list[int]] = {}
        always: list[int] = []
        for ordinal, keys in enumerate(_choose_keys([filed.rule for filed in rules], filing)):
            if keys is None:
                always.append(ordinal)
                continue
            for key in dict.fromkeys(keys):
                by_key.setdefault(key, []).append(ordinal)
        self._always = tuple(always)
        self._tables = filing.tables(by_key)

    def __len__(self) -> int:
        return len(self._rules)

    def first(self, peer: Facts) -> RuleRef | None:
        """Name the first rule that matches."""
        if not self._rules:
            return None
        rules = self._rules
        best = len(rules)
        for ordinals in self._candidates(peer):
            for ordinal in ordinals:
                if ordinal >= best:
                    break
                if rules[ordinal].compiled.holds(peer):
                    best = ordinal
                    break
        return rules[best].ref if best < len(rules) else None

    def all(self, peer: Facts) -> tuple[RuleRef, ...]:
        """Name every rule that matches, in order."""
        if not self._rules:
            return ()
        found = {
            ordinal
            for ordinals in self._candidates(peer)
            for ordinal in ordinals
            if self._rules[ordinal].compiled.holds(peer)
        }
        return tuple(self._rules[ordinal].ref for ordinal in sorted(found))

    def _candidates(self, peer: Facts) -> list[Sequence[int]]:
        found = self._tables.candidates(peer)
        if self._always:
            found.append(self._always)
        return found


def _choose_keys(rules: Sequence[Rule], filing: Filing[Facts]) -> Iterator[Keys | None]:
    """Yield the covering keys of each rule; None where it has none."""
    options = [_options(rule, filing) for rule in rules]
    counts = Counter(
        key for clauses in options for fields in clauses for keys in fields for key in keys
    )
    for clauses in options:
        best: Keys | None = None
        for clause in clauses:
            keys = _cheapest_of(clause, counts)
            if best is None or _cost(keys, counts) < _cost(best, counts):
                best = keys
        yield best


def _cost(keys: Keys, counts: Counter[Key]) -> int:
    return max(counts[key] for key in keys)


def _cheapest_of(fields: Sequence[Keys], counts: Counter[Key]) -> Keys:
    return min(fields, key=lambda keys: _cost(keys, counts))


def _options(rule: Rule, filing: Filing[Facts]) -> list[list[Keys]]:
    """Ways to cover a rule. Each way is a list of interchangeable key tuples."""
    ways: list[list[Keys]] = []

    def reach(keys: Keys) -> int:
        return max(filing.reach.get(str(key[0]), 9) for key in keys)

    for alternatives in (rule.sources, rule.operations):
        fields = [filing.field_keys(match) for match in alternatives]
        if fields and all(fields):
            # The alternatives of a clause must all be covered: take each one's shortest field.
            union = tuple(key for options in fields for key in min(options, key=reach))
            ways.append([union])
    for condition in rule.conditions:
        options = filing.field_keys(condition)
        if options:
            ways.append(options)
    return ways


PEER_REACH: Mapping[str, int] = {
    "principals": 0,
    "account": 0,
    "src": 1,
    "affix": 2,
    "namespaces": 3,
    "dst": 4,
    "port": 5,
}
"""How many connections a key is likely to meet, lowest first, where no counts can tell."""


def peer_field_keys(match: L4Match) -> list[Keys]:
    """Covering keys of each positive field of a match."""
    fields = [
        _string_keys("principals", match.principals),
        _string_keys("namespaces", match.namespaces),
        _string_keys("trust_domains", match.trust_domains),
        tuple(("account", (a.namespace, a.name)) for a in match.service_accounts),
        tuple(("src", *network_key(network)) for network in match.src_ips),
        tuple(("dst", *network_key(network)) for network in match.dst_ips),
        tuple(("port", port) for port in sorted(match.dst_ports)),
    ]
    return [keys for keys in fields if keys]


def _string_keys(field: str, matches: Sequence[StringMatch]) -> Keys:
    return tuple(_string_key(field, match) for match in matches)


def _string_key(field: str, match: StringMatch) -> Key:
    if match.kind == "exact":
        return (field, match.value)
    if match.kind == "prefix" and match.value:
        return ("affix", field, len(match.value), match.value)
    if match.kind == "suffix" and match.value:
        return ("affix", field, -len(match.value), match.value)
    return ("any",)


PEER_FILING: Filing[Peer] = Filing(peer_field_keys, PEER_REACH, PeerTables)
"""How a point files rules that sees connections only."""
