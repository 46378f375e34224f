"""What of a configuration is kept from whoever may look at it.

Objects of the mesh are no place for secrets, but some get there: a header that a route adds, a key
that an authorizer is shown, a password in the URL of a key set. Answers for people hold
`[hidden]` in their place, also on the node itself: dumps are passed on. Works on plain values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

HIDDEN = "[hidden]"
SECRET_HEADERS = frozenset(
    (
        *("authorization", "proxy-authorization", "cookie", "set-cookie"),
        *("api-key", "apikey", "x-api-key", "x-auth-token", "x-amz-security-token"),
    )
)
"""Headers that hold credentials, in lower case."""
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_PRIVATE_KEY = re.compile(r'"(?:d|k|p|q|dp|dq|qi|oth)"\s*:')
"""Members of a JSON Web Key that are no public key's (RFC 7518 §6)."""
_VALUES = frozenset(("value", "values", "not_values"))


def hide_secrets(plain: object) -> object:
    """The same plain value (dicts, lists, text, numbers) without what is secret."""
    match plain:
        case Mapping():
            is_secret = is_secret_header(plain.get("name"))
            return {
                key: _blank(value) if is_secret and key in _VALUES else _field(str(key), value)
                for key, value in plain.items()
            }
        case list() | tuple():
            return [hide_secrets(item) for item in plain]
        case str():
            return _USER_IN_URL.sub(f"{HIDDEN}@", plain)
    return plain


def is_secret_header(name: object) -> bool:
    """Whether a header of this name holds credentials; policies write the name as a list of one."""
    if isinstance(name, list | tuple):
        return len(name) == 1 and is_secret_header(name[0])
    return isinstance(name, str) and name.lower() in SECRET_HEADERS


def _field(name: str, value: object) -> object:
    if name == "extra_headers":
        return _second_hidden(value)
    if name == "jwks" and isinstance(value, str) and _PRIVATE_KEY.search(value):
        return f"{HIDDEN}: it holds a private key"
    if name == "jwks_uri" and isinstance(value, str) and "?" in value:
        address = value.partition("?")[0]
        return f"{hide_secrets(address)}?{HIDDEN}"
    return hide_secrets(value)


def _second_hidden(pairs: object) -> object:
    """Names and values that only an authorizer is shown."""
    if not isinstance(pairs, list | tuple):
        return HIDDEN
    return [[pair[0], HIDDEN] for pair in pairs if isinstance(pair, list | tuple) and pair]


def _blank(value: object) -> object:
    """Text anywhere in it becomes `[hidden]`; how much there is stays visible."""
    match value:
        case str():
            return HIDDEN if value else ""
        case Mapping():
            return {key: v if key == "kind" else _blank(v) for key, v in value.items()}
        case list() | tuple():
            return [_blank(item) for item in value]
    return value
