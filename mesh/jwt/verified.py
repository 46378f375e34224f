"""Tokens whose signature was checked, so that a token that comes again costs no cryptography.

Only the signature is remembered, and only for the very key set it was checked with: times and
audience are judged for every request, and keys that change make everything be checked again.
Tokens are found by their digest; the least recently used go first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from hashlib import sha256

from mesh.jwt.keys import KeySet
from mesh.jwt.token import UnverifiedToken

MAX_TOKENS = 1000
"""A signature costs 30 to 200 µs to check; an entry holds up to 20 KiB."""


@dataclass(frozen=True, slots=True)
class _Verified:
    token: UnverifiedToken
    keys: KeySet


class VerifiedTokens:
    """The cache of one worker."""

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        self._max_tokens = max_tokens
        self._tokens: OrderedDict[bytes, _Verified] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tokens)

    def find(self, digest: bytes) -> UnverifiedToken | None:
        """The token of a digest, if it is known; `was_signed` says what it is worth."""
        known = self._tokens.get(digest)
        if known is None:
            return None
        self._tokens.move_to_end(digest)
        return known.token

    def was_signed(self, digest: bytes, keys: KeySet) -> bool:
        """Whether the token's signature was found good with these very keys."""
        known = self._tokens.get(digest)
        return known is not None and known.keys is keys

    def add(self, digest: bytes, token: UnverifiedToken, keys: KeySet) -> None:
        """Remember a good signature. What is kept is of no use to sign in with."""
        self._tokens[digest] = _Verified(replace(token, signed=b"", signature=b""), keys)
        self._tokens.move_to_end(digest)
        while len(self._tokens) > self._max_tokens:
            self._tokens.popitem(last=False)

    def forget(self, digest: bytes) -> None:
        """Drop a token that is not good any more."""
        self._tokens.pop(digest, None)


def digest_of(text: str) -> bytes:
    """What a token is found by."""
    return sha256(text.encode(errors="surrogatepass")).digest()
