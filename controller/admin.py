"""What a person does to a standalone CA's state directory, as functions for the CLI.

All of them work with the CA running or stopped; a running one sees the change within a second.
Errors are `ConfigError` (directory, files, arguments) and `IdentityError` (certificates, steps).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mesh.errors import ConfigError
from mesh.identity.join import TokenBook, TokenRecord, list_by_node
from mesh.identity.profiles import RandomBytes, given_root, new_root
from mesh.identity.roots import (
    CaState,
    RootStage,
    RotationTiming,
    SigningRoot,
    activate_next,
    initial_state,
    publish_root,
)
from mesh.identity.server_tls import root_fingerprint
from mesh.identity.state_dir import StateDir
from mesh.model.identity import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenCa:
    """PEM files of a person's own PKI."""

    cert_chain: Path
    key: Path
    root: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RootSummary:
    """One root for people; `due_at` is when its stage ends by itself, None for the active one."""

    fingerprint: str
    stage: RootStage
    since: float
    due_at: float | None


def init_ca(
    path: Path,
    *,
    trust_domain: str,
    aliases: Sequence[str] = (),
    given: GivenCa | None = None,
    now: float,
    random_bytes: RandomBytes,
) -> StateDir:
    """Create a CA with a generated root or a given one; refuses a directory with state in it."""
    for domain in (trust_domain, *aliases):
        # The type knows the rule for names of trust domains; the rest of the ID is filler.
        SpiffeId(trust_domain=domain, namespace="x", service_account="x")
    state = initial_state(
        _signing_root(given, trust_domain, now, random_bytes),
        list(dict.fromkeys((trust_domain, *aliases))),
        now,
    )
    server_root = new_root("meshnode CA server", now, random_bytes)
    return StateDir.create(path, state, server_root)


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
    root = _signing_root(given, before.trust_domains[0], now, random_bytes)
    return _summaries(state_dir.update_ca(lambda state: publish_root(state, root, now)))


def activate_root(path: Path, *, now: float) -> list[RootSummary]:
    """Let a published root sign at once: for a compromised key, when waiting is the worse risk."""
    return _summaries(StateDir(path).update_ca(partial(activate_next, now=now)))


def list_roots(path: Path, timing: RotationTiming | None = None) -> list[RootSummary]:
    """Every root and its stage; with the CA's timing also when the stage ends."""
    state, _ = StateDir(path).load_ca()
    return _summaries(state, timing)


def _signing_root(
    given: GivenCa | None, trust_domain: str, now: float, random_bytes: RandomBytes
) -> SigningRoot:
    if given is None:
        return new_root(trust_domain, now, random_bytes)
    return given_root(
        cert_chain_pem=_read(given.cert_chain),
        key_pem=_read(given.key),
        root_pem=_read(given.root),
        now=now,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _summaries(state: CaState, timing: RotationTiming | None = None) -> list[RootSummary]:
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
