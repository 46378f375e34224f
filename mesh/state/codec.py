"""Model values to plain data and back, for the wire between node and workers.

A dataclass becomes the list of its fields, in order; addresses their text; enums their value.
Both ends are of one version (the node starts its workers), so no field names travel. What comes
out is rebuilt by the constructors, so a value that breaks their rules is an error.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from mesh.errors import ConfigError

Decoder = Callable[[object], object]
Hint = object

_ADDRESSES = (IPv4Address, IPv6Address)
_NETWORKS = (IPv4Network, IPv6Network)


def to_plain(value: object) -> object:
    """Turn a model value into lists, dicts, texts and numbers."""
    if value is None or (isinstance(value, bool | int | float) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return value
    if isinstance(value, (*_ADDRESSES, *_NETWORKS)):
        return str(value)
    if dataclasses.is_dataclass(value):
        return [to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | frozenset):
        return [to_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no form on the wire")


def from_plain(hint: Hint, plain: object) -> object:
    """Rebuild a value of the type `hint`; raise `ConfigError` for anything else."""
    try:
        return _decoder(hint)(plain)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ConfigError(f"a change of the mesh cannot be read: {error}") from error


@cache
def _decoder(hint: Hint) -> Decoder:
    hint = getattr(hint, "__supertype__", hint)  # NewType
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments)
    if origin is not None and isinstance(origin, type):
        return _container(origin, arguments)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return lambda plain: hint(plain)
    if isinstance(hint, type) and hint in (str, int, bool, float):
        return _scalar(hint)
    raise TypeError(f"{hint} has no form on the wire")


def _scalar(wanted: type) -> Decoder:
    def decode(plain: object) -> object:
        if not isinstance(plain, wanted):
            raise TypeError(f"want {wanted.__name__}, got {type(plain).__name__}")
        return plain

    return decode


def _union(arguments: tuple[Hint, ...]) -> Decoder:
    named = tuple(item for item in arguments if item is not type(None))
    if set(named) == set(_ADDRESSES):
        decode: Decoder = lambda plain: ip_address(str(plain))  # noqa: E731
    elif set(named) == set(_NETWORKS):
        decode = lambda plain: ip_network(str(plain))  # noqa: E731
    elif len(named) == 1:
        decode = _decoder(named[0])
    else:
        raise TypeError(f"a union of {named} has no form on the wire")
    if len(named) == len(arguments):
        return decode
    return lambda plain: None if plain is None else decode(plain)


def _container(origin: type, arguments: tuple[Hint, ...]) -> Decoder:
    if issubclass(origin, Mapping):
        key, value = _decoder(arguments[0]), _decoder(arguments[1])
        return lambda plain: {key(k): value(v) for k, v in _dict(plain).items()}
    item = _decoder(arguments[0])
    if origin is frozenset:
        return lambda plain: frozenset(item(part) for part in _list(plain))
    return lambda plain: tuple(item(part) for part in _list(plain))


def _dataclass(kind: type) -> Decoder:
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    decoders = [_decoder(hints[name]) for name in names]

    def decode(plain: object) -> object:
        parts = zip(names, decoders, _list(plain), strict=True)
        return kind(**{name: decoder(part) for name, decoder, part in parts})

    return decode


def _list(plain: object) -> list[object]:
    if not isinstance(plain, list):
        raise TypeError(f"want a list, got {type(plain).__name__}")
    return plain


def _dict(plain: object) -> dict[object, object]:
    if not isinstance(plain, dict):
        raise TypeError(f"want a map, got {type(plain).__name__}")
    return plain
