"""What a person does to a standalone CA's state directory, as functions for the CLI.

All of them work with the CA running or stopped; a running one sees the change within a second.
Errors are `ConfigError` (directory, files, arguments) and `IdentityError` (certificates, steps).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mesh.identity.bootstrap import GivenCa, init_ca, signing_root
from mesh.identity.join import TokenBook, TokenRecord, list_by_node
from mesh.identity.profiles import RandomBytes
from mesh.identity.roots import (
    CaState,
    RootStage,
    RotationTiming,
    activate_next,
    publish_root,
)
from mesh.identity.server_tls import root_fingerprint
from mesh.identity.state_dir import StateDir

__all__ = [
    "GivenCa",
    "RootSummary",
    "activate_root",
    "create_token",
    "init_ca",
    "list_roots",
    "list_tokens",
    "revoke_token",
    "rotate_root",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RootSummary:
    """One root for people; `due_at` is when its stage ends by itself, None for the active one."""

    fingerprint: str
    stage: RootStage
    since: float
    due_at: float | None


def create_token(path: Path, node: str, *, now: float, random_bytes: RandomBytes) -> str:
    """A new join token for a node, as text. It is shown once: the CA keeps only a hash."""
    state_dir = StateDir(path)
    fingerprint = root_fingerprint(state_dir.load_server_root().roots_pem)
    token = state_dir.update_tokens(
        lambda book: book.create(node, root_sha256=fingerprint, now=now, random_bytes=random_bytes)
    )
    return token.format()


def list_tokens(path: Path) -> list[TokenRecord]:
    """Every token's id, node and age; by node."""
    book, _ = StateDir(path).load_tokens()
    return list_by_node(book.records)


def revoke_token(path: Path, token_id: str) -> None:
    """Refuse a token from now on. Certificates it brought stay valid until they expire."""

    def revoke(book: TokenBook) -> tuple[TokenBook, None]:
        return book.revoke(token_id), None

    StateDir(path).update_tokens(revoke)


def rotate_root(
    path: Path, *, given: GivenCa | None = None, now: float, random_bytes: RandomBytes
) -> list[RootSummary]:
    """Publish a new root; the running CA activates it and retires the old one when due."""
    state_dir = StateDir(path)
    before, _ = state_dir.load_ca()
    root = signing_root(given, before.trust_domains[0], now, random_bytes)
    return summaries(state_dir.update_ca(lambda state: publish_root(state, root, now)))


def activate_root(path: Path, *, now: float) -> list[RootSummary]:
    """Let a published root sign at once: for a compromised key, when waiting is the worse risk."""
    return summaries(StateDir(path).update_ca(partial(activate_next, now=now)))


def list_roots(path: Path, timing: RotationTiming | None = None) -> list[RootSummary]:
    """Every root and its stage; with the CA's timing also when the stage ends."""
    state, _ = StateDir(path).load_ca()
    return summaries(state, timing)


def summaries(state: CaState, timing: RotationTiming | None = None) -> list[RootSummary]:
    """Roots for people; with the timing also when a stage ends."""
    waits: dict[RootStage, float] = {}
    if timing is not None:
        waits = {RootStage.NEXT: timing.publish_s, RootStage.RETIRING: timing.retire_s}
    return [
        RootSummary(
            fingerprint=root_fingerprint(staged.root.roots_pem),
            stage=staged.stage,
            since=staged.since,
            due_at=staged.since + waits[staged.stage] if staged.stage in waits else None,
        )
        for staged in state.roots
    ]
