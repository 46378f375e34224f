"""base64url and JSON as tokens use them, strictly: one text has one meaning or none."""

from __future__ import annotations

import binascii
import json
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence

from mesh.errors import MeshnodeError
from mesh.model.claims import JsonValue

MAX_JSON_DEPTH = 16
"""Keycloak's claims, the deepest in wide use, nest 4 levels."""

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*")


class EncodingError(MeshnodeError):
    """Bytes are not what they should encode."""


def decode_base64url(text: str) -> bytes:
    """Decode unpadded base64url (RFC 7515 §2); refuse stray characters and stray bits."""
    if not _ALPHABET.fullmatch(text):
        raise EncodingError("not base64url")
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise EncodingError("not base64url") from error
    if encode_base64url(data) != text:
        # Other last characters decode to the same bytes: two spellings of one token.
        raise EncodingError("base64url with stray bits")
    return data


def encode_base64url(data: bytes) -> str:
    """Encode as base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def parse_json_object(data: bytes) -> Mapping[str, JsonValue]:
    """Parse a JSON object; refuse duplicate members, NaN, lone surrogates and deep nesting."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise EncodingError("not JSON") from error
    if not isinstance(value, dict):
        raise EncodingError("not a JSON object")
    _check(value, 0)
    return value


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise EncodingError("a JSON member is there twice")
    return members


def _refuse_constant(name: str) -> JsonValue:
    raise EncodingError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise EncodingError("a number is out of range")
    return value


def _check(value: JsonValue, depth: int) -> None:
    if depth > MAX_JSON_DEPTH:
        raise EncodingError(f"JSON nested deeper than {MAX_JSON_DEPTH} levels")
    if isinstance(value, str):
        if any("\ud800" <= sign <= "\udfff" for sign in value):
            raise EncodingError("a lone surrogate")
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _check(name, depth)
            _check(item, depth + 1)
    elif isinstance(value, Sequence):
        for item in value:
            _check(item, depth + 1)
