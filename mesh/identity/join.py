"""Join tokens: how a node proves its name to a standalone CA, and knows the CA in turn.

    mn1.<node>.<secret>.<SHA-256 of the CA's server root, hex>

The CA keeps a hash of the secret bound to the node, never the token. The secret has 256 bits,
so that a plain SHA-256 is as good as a slow password hash. Pure: randomness and time are
passed in.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mesh.errors import ConfigError
from mesh.identity.errors import BadTokenError
from mesh.identity.profiles import RandomBytes

SECRET_BYTES = 32
MAX_TOKEN_CHARS = 512

_NODE = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_HEX64 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A token as its bearer holds it."""

    node: str
    secret: str = field(repr=False)
    root_sha256: str

    def format(self) -> str:
        """The text to hand to the node; whoever has it can be that node."""
        return f"mn1.{self.node}.{self.secret}.{self.root_sha256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """A token as the CA keeps it.

    Attributes:
        token_id: short name for listing and revoking; tells nothing about the secret.
        secret_sha256: of node and secret, hex.
        created_at: seconds since the epoch.
    """

    token_id: str
    node: str
    secret_sha256: str = field(repr=False)
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBook:
    """All tokens of a CA; every change is a new book."""

    records: tuple[TokenRecord, ...] = ()

    def create(
        self, node: str, *, root_sha256: str, now: float, random_bytes: RandomBytes
    ) -> tuple[TokenBook, JoinToken]:
        """A new token for a node; a node may have several, to replace one without a gap."""
        if not _NODE.fullmatch(node):
            raise ConfigError(
                f"{node!r} is not a node name: use lower-case letters, digits, '-' and '.'"
            )
        token = JoinToken(
            node=node, secret=random_bytes(SECRET_BYTES).hex(), root_sha256=root_sha256
        )
        record = TokenRecord(
            token_id=random_bytes(6).hex(),
            node=node,
            secret_sha256=_hash(token),
            created_at=now,
        )
        return replace(self, records=(*self.records, record)), token

    def revoke(self, token_id: str) -> TokenBook:
        """Remove a token; raise `ConfigError` if there is none of that id."""
        kept = tuple(record for record in self.records if record.token_id != token_id)
        if len(kept) == len(self.records):
            raise ConfigError(f"no join token with id {token_id!r}: list the tokens to see theirs")
        return replace(self, records=kept)

    def authenticate(self, text: str) -> str:
        """The node that a token speaks for; raise `BadTokenError`."""
        token = parse_token(text)
        offered = _hash(token)
        # Every record is compared, in constant time each: the time tells nothing about a hash.
        matches = [
            record.node
            for record in self.records
            if hmac.compare_digest(record.secret_sha256, offered)
        ]
        if token.node not in matches:
            raise BadTokenError("the join token is unknown or revoked: create a new one at the CA")
        return token.node


def parse_token(text: str) -> JoinToken:
    """Split a token; raise `BadTokenError`, which never repeats the secret."""
    fields = text.strip().rsplit(".", 2) if len(text) <= MAX_TOKEN_CHARS else []
    if len(fields) == 3:
        head, secret, root_sha256 = fields
        version, _, node = head.partition(".")
        if (
            version == "mn1"
            and _NODE.fullmatch(node)
            and _HEX64.fullmatch(secret)
            and _HEX64.fullmatch(root_sha256)
        ):
            return JoinToken(node=node, secret=secret, root_sha256=root_sha256)
    raise BadTokenError("not a join token: want mn1.<node>.<secret>.<fingerprint>, complete")


def list_by_node(records: Sequence[TokenRecord]) -> list[TokenRecord]:
    """For people: by node, oldest first."""
    return sorted(records, key=lambda record: (record.node, record.created_at))


def _hash(token: JoinToken) -> str:
    return hashlib.sha256(f"{token.node}.{token.secret}".encode()).hexdigest()
