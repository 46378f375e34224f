"""The CA's roots and their rotation with overlap, as data.

    next ──publish_s──▶ active ──(its successor becomes active)──▶ retiring ──retire_s──▶ gone

A new root is published in the trust bundle first and signs nothing, so that every node accepts
it before the first certificate under it appears. The old one stays in the bundle until the last
certificate under it has expired. Time is passed in, seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from mesh.errors import IdentityError
from mesh.model.credentials import TrustBundle


class RootStage(StrEnum):
    """Where a root is in its life."""

    NEXT = "next"
    ACTIVE = "active"
    RETIRING = "retiring"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningRoot:
    """A signing key with the certificates that make it trusted.

    Attributes:
        roots_pem: the root or roots that peers must accept.
        chain_pem: the signer's certificate and further intermediates, signer first; empty
            where the root itself signs.
        key_pem: PKCS #8, of the signer.
    """

    roots_pem: bytes
    chain_pem: bytes
    key_pem: bytes = field(repr=False)

    @property
    def signer_pem(self) -> bytes:
        """PEM that starts with the certificate of `key_pem`."""
        return self.chain_pem or self.roots_pem


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedRoot:
    """A root, its stage and when it entered that stage."""

    root: SigningRoot
    stage: RootStage
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationTiming:
    """How long a root stays in a stage.

    Attributes:
        publish_s: from publication to the first signature; covers a node that polls late.
        retire_s: from the last signature to removal; at least a leaf's lifetime.
    """

    publish_s: float
    retire_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CaState:
    """All that a CA must not forget.

    Attributes:
        trust_domains: own domain first, then aliases.
        roots: exactly one is active, at most one is next.
        revision: grows with every change of the bundle.
    """

    trust_domains: tuple[str, ...]
    roots: tuple[StagedRoot, ...]
    revision: int

    def __post_init__(self) -> None:
        stages = [staged.stage for staged in self.roots]
        if not self.trust_domains:
            raise IdentityError("a CA needs a trust domain")
        if stages.count(RootStage.ACTIVE) != 1 or stages.count(RootStage.NEXT) > 1:
            raise IdentityError("a CA has exactly one active root and at most one next root")

    @property
    def active(self) -> SigningRoot:
        """The root that signs now."""
        return next(s.root for s in self.roots if s.stage is RootStage.ACTIVE)

    @property
    def bundle(self) -> TrustBundle:
        """Every root of every stage, each once."""
        roots = dict.fromkeys(staged.root.roots_pem.strip() + b"\n" for staged in self.roots)
        return TrustBundle(trust_domains=self.trust_domains, roots_pem=b"".join(roots))


def initial_state(root: SigningRoot, trust_domains: Sequence[str], now: float) -> CaState:
    """A CA's first state: one root, active at once, as nobody trusts another yet."""
    active = StagedRoot(root=root, stage=RootStage.ACTIVE, since=now)
    return CaState(trust_domains=tuple(trust_domains), roots=(active,), revision=1)


def publish_root(state: CaState, root: SigningRoot, now: float) -> CaState:
    """Begin a rotation; raise `IdentityError` while another root waits for its turn."""
    if any(staged.stage is RootStage.NEXT for staged in state.roots):
        raise IdentityError(
            "a root rotation is under way: the next root is published and not yet active. "
            "Wait for it, or activate it, before you begin another"
        )
    published = StagedRoot(root=root, stage=RootStage.NEXT, since=now)
    return replace(state, roots=(*state.roots, published), revision=state.revision + 1)


def activate_next(state: CaState, now: float) -> CaState:
    """Let the next root sign from now on, whether or not its time has come."""
    if all(staged.stage is not RootStage.NEXT for staged in state.roots):
        raise IdentityError("no root waits to be activated: begin a rotation first")
    follows = {RootStage.NEXT: RootStage.ACTIVE, RootStage.ACTIVE: RootStage.RETIRING}
    roots = tuple(
        replace(staged, stage=follows[staged.stage], since=now)
        if staged.stage in follows
        else staged
        for staged in state.roots
    )
    return replace(state, roots=roots)


def advance(state: CaState, timing: RotationTiming, now: float) -> CaState:
    """Take every step that is due; the same object if none is."""
    for staged in state.roots:
        if staged.stage is RootStage.NEXT and now >= staged.since + timing.publish_s:
            state = activate_next(state, now)
    kept = tuple(
        staged
        for staged in state.roots
        if staged.stage is not RootStage.RETIRING or now < staged.since + timing.retire_s
    )
    if len(kept) == len(state.roots):
        return state
    return replace(state, roots=kept, revision=state.revision + 1)


def next_step_at(state: CaState, timing: RotationTiming) -> float | None:
    """When `advance` will next do something; None in the steady state."""
    waits = {RootStage.NEXT: timing.publish_s, RootStage.RETIRING: timing.retire_s}
    return min((s.since + waits[s.stage] for s in state.roots if s.stage in waits), default=None)
