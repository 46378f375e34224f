"""How the keys of token issuers do, for people."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from mesh.jwt.jwks import JwksStatus, LocationKind
from waypoint.feed import IssuerKeys

MAX_ISSUERS = 200


def issuer_states(found: Iterable[JwksStatus]) -> list[IssuerKeys]:
    """Describe the sources that are fetched; inline keys never change."""
    states = [
        IssuerKeys(
            source=_shown(item.location.text),
            keys=item.keys,
            age_s=item.age_s,
            failures=item.failures,
            error=item.error[:300],
            problems=list(item.problems[:10]),
        )
        for item in found
        if item.location.kind is not LocationKind.INLINE
    ]
    return sorted(states, key=lambda state: state.source)[:MAX_ISSUERS]


def _shown(url: str) -> str:
    """Leave out what may be secret: user, password and query."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"[:200]
