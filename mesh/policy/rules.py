"""A list of rules that finds the matching one without looking at all of them.

Every rule is filed under *covering keys*: values of which the connection must show at least one
for the rule to match (a principal, a namespace, a network, a port ...). Of several fields the
rarest key is taken, so a lookup meets only a handful of rules. Rules with nothing but negative
fields have no key and are always looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mesh.model.policy import L4Match, Rule, StringMatch
from mesh.model.verdict import RuleRef
from mesh.policy.match import CompiledRule, Peer, network_key

Key = tuple[object, ...]
Keys = tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class FiledRule:
    """A rule with its name and its compiled form."""

    ref: RuleRef
    rule: Rule
    compiled: CompiledRule


class RuleList:
    """Rules in the order in which they are reported. Immutable after construction."""

    __slots__ = ("_affixes", "_always", "_by_key", "_rules", "_shifts")

    def __init__(self, rules: Sequence[FiledRule]) -> None:
        self._rules = tuple(rules)
        by_key: dict[Key, list[int]] = {}
        always: list[int] = []
        for ordinal, keys in enumerate(_choose_keys([filed.rule for filed in rules])):
            if keys is None:
                always.append(ordinal)
                continue
            for key in dict.fromkeys(keys):
                by_key.setdefault(key, []).append(ordinal)
        self._by_key = by_key
        self._always = tuple(always)
        self._shifts = tuple(
            sorted({key[:3] for key in by_key if key[0] in ("src", "dst")}, key=str)
        )
        self._affixes = tuple(sorted({key[:3] for key in by_key if key[0] == "affix"}, key=str))

    def __len__(self) -> int:
        return len(self._rules)

    def first(self, peer: Peer) -> RuleRef | None:
        """Name the first rule whose L4 part matches."""
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

    def all(self, peer: Peer) -> tuple[RuleRef, ...]:
        """Name every rule whose L4 part matches, in order."""
        if not self._rules:
            return ()
        found = {
            ordinal
            for ordinals in self._candidates(peer)
            for ordinal in ordinals
            if self._rules[ordinal].compiled.holds(peer)
        }
        return tuple(self._rules[ordinal].ref for ordinal in sorted(found))

    def _candidates(self, peer: Peer) -> Iterator[Sequence[int]]:
        by_key = self._by_key
        if self._always:
            yield self._always
        if by_key:
            for key in self._keys_of(peer):
                ordinals = by_key.get(key)
                if ordinals is not None:
                    yield ordinals

    def _keys_of(self, peer: Peer) -> Iterator[Key]:
        yield ("port", peer.port)
        for kind, version, shift in self._shifts:
            own, value = (
                (peer.src_version, peer.src_value)
                if kind == "src"
                else (peer.dst_version, peer.dst_value)
            )
            if own == version and isinstance(shift, int):
                yield (kind, version, shift, value >> shift)
        for principal in peer.principals:
            yield ("principals", principal)
        for account in peer.accounts:
            yield ("account", account)
            yield ("namespaces", account[0])
            yield ("any",)
        for domain in peer.trust_domains:
            yield ("trust_domains", domain)
        for key in self._affixes:
            yield from _affix_keys(peer, key)


def _affix_keys(peer: Peer, key: Key) -> Iterator[Key]:
    _, field, length = key
    if not isinstance(length, int):
        return
    values = peer.principals
    if field != "principals":
        values = peer.namespaces if field == "namespaces" else peer.trust_domains
    for value in values:
        affix = value[:length] if length >= 0 else value[length:]
        yield ("affix", field, length, affix)


def _choose_keys(rules: Sequence[Rule]) -> Iterator[Keys | None]:
    """Yield the covering keys of each rule; None where it has none."""
    options = [_options(rule) for rule in rules]
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


def _options(rule: Rule) -> list[list[Keys]]:
    """Ways to cover a rule. Each way is a list of interchangeable key tuples."""
    ways: list[list[Keys]] = []
    for alternatives in (rule.sources, rule.operations):
        fields = [_field_keys(match) for match in alternatives]
        if fields and all(fields):
            # The alternatives of a clause must all be covered: take each one's shortest field.
            union = tuple(key for options in fields for key in min(options, key=_reach))
            ways.append([union])
    for condition in rule.conditions:
        options = _field_keys(condition)
        if options:
            ways.append(options)
    return ways


# How many connections a key is likely to meet, lowest first, where no counts can tell.
_REACH = {"principals": 0, "account": 0, "src": 1, "affix": 2, "namespaces": 3, "dst": 4, "port": 5}


def _reach(keys: Keys) -> int:
    return max(_REACH.get(str(key[0]), 9) for key in keys)


def _field_keys(match: L4Match) -> list[Keys]:
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
