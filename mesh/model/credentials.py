"""Key material as values: what a tunnel needs to prove who we are and to check who they are."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.model.identity import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Svid:
    """An X.509 certificate with its key for one identity.

    Attributes:
        chain_pem: leaf first, then intermediates; the root is not in it.
        key_pem: PKCS #8, never logged.
        not_before, not_after: seconds since the epoch.
        serial: of the leaf, as lower-case hex.
    """

    identity: SpiffeId
    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    not_before: float
    not_after: float
    serial: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """Roots accepted for a trust domain and its aliases.

    Attributes:
        trust_domains: names whose SPIFFE IDs these roots may sign; the own one first.
        roots_pem: every accepted root, concatenated.
    """

    trust_domains: tuple[str, ...]
    roots_pem: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Everything one side of a mutual TLS handshake needs."""

    svid: Svid
    bundle: TrustBundle
