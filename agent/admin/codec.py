"""Values to JSON and back, strictly typed. Field names stay as they are: snake_case."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeVar

import msgspec

from mesh.errors import ConfigError
from mesh.model.identity import SpiffeId

T = TypeVar("T")

_AS_TEXT = (IPv4Address, IPv6Address, IPv4Network, IPv6Network, SpiffeId)


def _plain_extra(value: object) -> str:
    if isinstance(value, _AS_TEXT):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def to_plain(value: object) -> object:
    """Dataclasses to dicts, enums to their values, addresses to text; keys become text."""
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_plain_extra, order="deterministic")


def to_json(value: object, *, indent: int | None = None) -> str:
    """JSON text with keys in the order of the fields, in ASCII so that a terminal stays safe."""
    return json.dumps(to_plain(value), indent=indent)


def from_json(text: bytes, kind: type[T]) -> T:
    """Parse JSON into `kind`; raise `ConfigError` naming the field that is wrong.

    Fields that `kind` does not know are ignored: a newer node may say more.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise ConfigError(f"unexpected JSON: {error}") from error
