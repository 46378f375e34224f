"""Regular expressions of people's objects: RE2, so that none can take exponential time."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import re2

from mesh.errors import ConfigError

MAX_PATTERN_CHARS = 1024  # The Gateway API's own limit for a path value.
# RE2's compiled program and its automaton together; larger patterns are refused when read.
_MEMORY_BYTES = 1 << 20
_CACHED = 4096


class _Compiled(Protocol):
    def fullmatch(self, text: bytes) -> object | None: ...


class Pattern:
    """A compiled expression; it always matches the whole text."""

    __slots__ = ("_fullmatch",)

    def __init__(self, compiled: _Compiled) -> None:
        self._fullmatch = compiled.fullmatch

    def matches(self, text: str) -> bool:
        """Say whether the whole text matches; texts of the wire are Latin-1 (RFC 9110 §5.5)."""
        return self._fullmatch(text.encode("latin-1", "replace")) is not None


@lru_cache(maxsize=_CACHED)
def compile_pattern(text: str) -> Pattern:
    """Compile an expression; raise `ConfigError` for one that RE2 refuses.

    The cache is invisible: equal texts have equal meaning. It spares the second compilation,
    after the one that validates.
    """
    if len(text) > MAX_PATTERN_CHARS:
        raise ConfigError(f"the expression is longer than {MAX_PATTERN_CHARS} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY_BYTES
    # Only yes or no is asked: without groups RE2 stays with its fastest engine.
    options.never_capture = True
    try:
        return Pattern(re2.compile(text.encode(), options))
    except (re2.error, UnicodeEncodeError) as error:
        detail = error.args[0] if error.args else error
        words = detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
        raise ConfigError(f"{text!r} is not a regular expression of RE2: {words}") from error


_META = frozenset("\\.+*?()|[]{}^$")
_OPTIONAL = frozenset("*?{")


def literal_prefix(text: str) -> str:
    """The text that every match of an expression starts with; empty where that is not plain."""
    if "|" in text:
        return ""
    body = text.removeprefix("^")
    end = next((index for index, char in enumerate(body) if char in _META), len(body))
    if end < len(body) and body[end] in _OPTIONAL:
        end -= 1
    return body[: max(end, 0)]
