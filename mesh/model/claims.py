"""What a verified token says about a caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]

ALWAYS_SPLIT = frozenset({"scope", "permission"})
"""Claims that hold a list in one string (RFC 8693 §4.2; Istio)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """The payload of a token whose signature, issuer, audience and time were checked.

    Attributes:
        space_delimited: top-level claims whose string is a list.
    """

    payload: Mapping[str, JsonValue]
    space_delimited: frozenset[str] = field(default=ALWAYS_SPLIT)

    @property
    def principal(self) -> str:
        """`<iss>/<sub>`; empty unless both are there, so that `*` does not match half of it."""
        issuer, subject = self.payload.get("iss"), self.payload.get("sub")
        if isinstance(issuer, str) and isinstance(subject, str) and issuer and subject:
            return f"{issuer}/{subject}"
        return ""

    @property
    def audiences(self) -> tuple[str, ...]:
        """`aud` (RFC 7519 §4.1.3: a string or a list)."""
        return _texts(self.payload.get("aud"))

    @property
    def presenter(self) -> str:
        """`azp`, the party the token was issued to (OIDC Core §2)."""
        presenter = self.payload.get("azp")
        return presenter if isinstance(presenter, str) else ""

    def at(self, way: Sequence[str]) -> JsonValue:
        """Return the claim at the end of a way of at least one name; None where there is none."""
        found = self.payload.get(way[0])
        for name in way[1:]:
            if not isinstance(found, dict):
                return None
            found = found.get(name)
        return found

    def texts(self, way: Sequence[str]) -> tuple[str, ...]:
        """Return a claim as strings: each element of a list, numbers and booleans as JSON."""
        value = self.at(way)
        if isinstance(value, str) and len(way) == 1 and way[0] in self.space_delimited:
            return tuple(value.split())
        return _texts(value)


def scalar_text(value: JsonValue) -> str | None:
    """Write a string, whole number or boolean as text; None for everything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else None


def _texts(value: JsonValue) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(text for item in value if (text := scalar_text(item)) is not None)
    text = scalar_text(value)
    return () if text is None else (text,)
