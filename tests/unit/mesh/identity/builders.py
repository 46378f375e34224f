"""Builders for the identity tests; a test spells only what it is about."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from mesh.identity.ca import CaSettings, CertificateAuthority
from mesh.identity.profiles import new_root
from mesh.identity.roots import CaState, SigningRoot, initial_state
from mesh.model.identity import SpiffeId

NOW = 1_800_000_000.0
NODE = "node-a"
TRUST_DOMAIN = "cluster.local"


def spiffe(account: str = "web", *, trust_domain: str = TRUST_DOMAIN) -> SpiffeId:
    return SpiffeId(trust_domain=trust_domain, namespace="shop", service_account=account)


class Placements:
    """An identity directory from a set; a real one, just not derived from a snapshot."""

    def __init__(self, placements: Iterable[tuple[SpiffeId, str]] = ((spiffe(), NODE),)) -> None:
        self.placements = set(placements)

    def runs_on(self, identity: SpiffeId, node: str) -> bool:
        return (identity, node) in self.placements


def random_bytes(count: int) -> bytes:
    return _RANDOM.randbytes(count)


_RANDOM = Random(7)


def root(now: float = NOW, *, lifetime_s: float = 86400.0 * 365) -> SigningRoot:
    return new_root("test mesh", now, random_bytes, lifetime_s)


def ca_state(now: float = NOW) -> CaState:
    return initial_state(root(now), [TRUST_DOMAIN], now)


def authority(
    settings: CaSettings | None = None, directory: Placements | None = None
) -> CertificateAuthority:
    return CertificateAuthority(
        directory=directory or Placements(),
        settings=settings or CaSettings(),
        random_bytes=random_bytes,
    )
