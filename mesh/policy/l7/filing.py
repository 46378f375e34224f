"""How rules over requests are filed, so that a request meets only a handful of them.

Adds keys for HTTP fields to those of `mesh.policy.rules`. A field that every request shows in the
same few values (methods) is a poor key and taken last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mesh.model.policy import L4Match, NamedMatch, StringMatch
from mesh.policy.l7.match import CLAIM, HEADER, HOST, Request, string_fields
from mesh.policy.l7.paths import compile_template
from mesh.policy.match import network_key
from mesh.policy.rules import (
    PEER_REACH,
    Filing,
    Key,
    Keys,
    PeerTables,
    Table,
    peer_field_keys,
)

_EXACT, _AFFIX, _ANY = "request", "request-affix", "request-any"
_METHOD, _REMOTE = "request-method", "remote"
Field = str | tuple[str, tuple[str, ...]]


class _FieldTables:
    """Rules filed under the strings of one field."""

    __slots__ = ("affixes", "any", "exact")

    def __init__(self) -> None:
        self.exact: Table = {}
        self.affixes: list[tuple[int, Table]] = []
        self.any: Sequence[int] = ()

    def collect(self, values: Sequence[str], found: list[Sequence[int]]) -> None:
        for value in values:
            if ordinals := self.exact.get(value):
                found.append(ordinals)
            for length, table in self.affixes:
                if ordinals := table.get(value[:length] if length > 0 else value[length:]):
                    found.append(ordinals)
            if self.any and value:
                found.append(self.any)


class RequestTables:
    """Rules filed under what a request shows."""

    __slots__ = ("_claims", "_fields", "_headers", "_peer", "_remote")

    def __init__(self, by_key: Mapping[Key, list[int]]) -> None:
        self._peer = PeerTables(by_key)
        tables: dict[Key, dict[object, Sequence[int]]] = {}
        for key, ordinals in by_key.items():
            tables.setdefault(key[:-1], {})[key[-1]] = ordinals
        fields: dict[Field, _FieldTables] = {}
        self._remote: list[tuple[int, int, Table]] = []
        for kind, table in tables.items():
            match kind:
                case ("request" | "request-method", field):
                    _of(fields, field).exact = table
                case ("request-affix", field, int(length)):
                    _of(fields, field).affixes.append((length, table))
                case ("request-any", field):
                    _of(fields, field).any = table[True]
                case ("remote", int(version), int(shift)):
                    self._remote.append((version, shift, table))
        self._fields = [(name, own) for name, own in fields.items() if isinstance(name, str)]
        self._headers = {name[0]: own for name, own in _named(fields, HEADER).items()}
        if host := self._headers.pop(HOST[0], None):
            self._fields.append(("host", host))
        self._claims = tuple(_named(fields, CLAIM).items())

    def candidates(self, request: Request, /) -> list[Sequence[int]]:
        """See `Tables`."""
        found = self._peer.candidates(request)
        for name, tables in self._fields:
            tables.collect(request.shown[name], found)
        if self._headers:
            for name in self._headers.keys() & request.headers.keys():
                self._headers[name].collect((request.headers[name],), found)
        if request.claims is not None:
            for way, tables in self._claims:
                tables.collect(request.claims.texts(way), found)
        for version, shift, table in self._remote:
            same = version == request.remote_version
            if same and (ordinals := table.get(request.remote_value >> shift)):
                found.append(ordinals)
        return found


def _of(fields: dict[Field, _FieldTables], field: object) -> _FieldTables:
    assert isinstance(field, str | tuple)
    return fields.setdefault(field, _FieldTables())


def _named(fields: Mapping[Field, _FieldTables], kind: str) -> dict[tuple[str, ...], _FieldTables]:
    return {
        field[1]: tables
        for field, tables in fields.items()
        if isinstance(field, tuple) and field[0] == kind
    }


def request_field_keys(match: L4Match) -> list[Keys]:
    """Covering keys of each positive field of a match, HTTP fields first."""
    request = match.request
    if request is None:
        return peer_field_keys(match)
    fields = [tuple(_path_key(value) for value in request.paths)]
    for name, values, _ in string_fields(request):
        fields.append(tuple(_string_key(name, value) for value in values))
    for kind, named in ((HEADER, request.header), (CLAIM, request.claim)):
        fields.append(_named_keys(kind, named))
    fields.append(tuple((_REMOTE, *network_key(network)) for network in request.remote_ips))
    return [*(keys for keys in fields if keys), *peer_field_keys(match)]


def _named_keys(kind: str, named: NamedMatch | None) -> Keys:
    if named is None:
        return ()
    return tuple(_string_key((kind, named.name), value) for value in named.values)


def _path_key(match: StringMatch) -> Key:
    if match.kind != "template":
        return _string_key("paths", match)
    prefix = compile_template(match.value).prefix
    return _string_key("paths", StringMatch(kind="prefix", value=prefix))


def _string_key(field: Field, match: StringMatch) -> Key:
    if match.kind == "exact":
        return (_METHOD if field == "methods" else _EXACT, field, match.value)
    if match.kind == "prefix" and match.value:
        return (_AFFIX, field, len(match.value), match.value)
    if match.kind == "suffix" and match.value:
        return (_AFFIX, field, -len(match.value), match.value)
    return (_ANY, field, True)


REQUEST_FILING: Filing[Request] = Filing(
    request_field_keys,
    {**PEER_REACH, _EXACT: 1, _REMOTE: 1, _AFFIX: 2, _METHOD: 6, _ANY: 7},
    RequestTables,
)
"""How a point files rules that sees requests."""
