"""Who claims which address. Nearly always one does; only the others cost more than a dict entry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from mesh.model.address import IPAddress

Owner = TypeVar("Owner", bound=str)


class Claims(Generic[Owner]):
    """Owners by address, and the other way round where there are several."""

    def __init__(self) -> None:
        self._owners: dict[IPAddress, Owner | tuple[Owner, ...]] = {}

    def add(self, addresses: Iterable[IPAddress], owner: Owner) -> None:
        """Let an owner claim addresses that it does not claim yet."""
        for address in addresses:
            rivals = self.owners(address)
            self._owners[address] = (*rivals, owner) if rivals else owner

    def drop(self, addresses: Iterable[IPAddress], owner: Owner) -> None:
        """Take an owner's claims back."""
        for address in addresses:
            rest = tuple(item for item in self.owners(address) if item != owner)
            if len(rest) > 1:
                self._owners[address] = rest
            elif rest:
                self._owners[address] = rest[0]
            else:
                self._owners.pop(address, None)

    def owners(self, address: IPAddress) -> tuple[Owner, ...]:
        """Return all who claim an address."""
        found = self._owners.get(address)
        if found is None:
            return ()
        return found if isinstance(found, tuple) else (found,)
