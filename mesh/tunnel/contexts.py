"""TLS contexts by credentials: making one takes far longer than looking one up."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from mesh.model.credentials import Credentials

CACHED_CREDENTIALS = 512
"""As many identities at once as a crowded node has, for both roles."""

Context = TypeVar("Context", covariant=True)


class MakeContext(Protocol[Context]):
    """Makes a context; raises `IdentityError` for key material that cannot be used."""

    def __call__(self, credentials: Credentials, *, server: bool) -> Context: ...


class ContextCache(Generic[Context]):
    """Contexts of the credentials used last."""

    def __init__(self, make: MakeContext[Context]) -> None:
        self._make = make
        # The credentials object is held along with its contexts: its id() stays taken.
        self._cache: OrderedDict[tuple[int, bool], tuple[Credentials, Context]] = OrderedDict()

    def get(self, credentials: Credentials, *, server: bool) -> Context:
        """Raises `IdentityError` for key material that cannot be used."""
        key = (id(credentials), server)
        entry = self._cache.get(key)
        if entry is None:
            entry = (credentials, self._make(credentials, server=server))
            self._cache[key] = entry
            if len(self._cache) > CACHED_CREDENTIALS:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(key)
        return entry[1]
