"""How a CA begins: its first root, generated or given, and its state directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import ConfigError
from mesh.identity.profiles import RandomBytes, given_root, new_root
from mesh.identity.roots import SigningRoot, initial_state
from mesh.identity.state_dir import StateDir
from mesh.model.identity import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenCa:
    """PEM files of a person's own PKI."""

    cert_chain: Path
    key: Path
    root: Path


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
        signing_root(given, trust_domain, now, random_bytes),
        list(dict.fromkeys((trust_domain, *aliases))),
        now,
    )
    server_root = new_root("meshnode CA server", now, random_bytes)
    return StateDir.create(path, state, server_root)


def signing_root(
    given: GivenCa | None, trust_domain: str, now: float, random_bytes: RandomBytes
) -> SigningRoot:
    """The given root, checked, or a new one if none is given."""
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
