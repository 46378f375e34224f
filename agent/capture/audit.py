"""Looks whether the maps still hold what they should, a few entries at a time, and mends them.

Somebody with root may have changed a map, or a kernel bug lost an entry; nothing would tell us.
A pass over 100,000 entries takes an hour, and hardly any processor time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from agent.capture import maps as codec
from agent.capture.desired import Basis
from agent.capture.maps import PRESENT, Entries
from agent.capture.reconcile import EntryTables
from bpf.layout import pack_ip
from mesh.errors import KernelError

AT_A_TIME = 50
"""Once a second: 2 ms. Ten times as many would be the largest part of an agent at rest."""
STEPS_PER_PASS = 10
"""At least. The kernel looks at every bucket of a map, 0.7 million of them in a pass: 5 ms also
where hardly anything is in there."""


class Audit:
    """Goes over the maps again and again. `step` while nobody else writes to them.

    Args:
        basis: what the maps are to hold now; None = nothing yet. It may change between two steps.
    """

    def __init__(
        self, tables: EntryTables, basis: Callable[[], Basis | None], at_a_time: int = AT_A_TIME
    ) -> None:
        self._tables = tables
        self._basis = basis
        self._at_a_time = at_a_time
        self._pass: Iterator[str] = iter(())
        self._steps = STEPS_PER_PASS

    def step(self) -> list[str]:
        """Look at some entries; what was put back or removed, as `<map>: <what>`."""
        if self._basis() is None:
            return []
        self._steps += 1
        looked_at = list(islice(self._pass, self._at_a_time))
        if len(looked_at) < self._at_a_time and self._steps > STEPS_PER_PASS:
            self._pass, self._steps = self._look(), 1
        return [what for what in looked_at if what]

    def _look(self) -> Iterator[str]:
        """One pass: a text for each entry, empty where nothing was wrong."""
        yield from self._workloads()
        yield from self._services()
        yield from self._small("mn_verdict", lambda b: codec.encode_verdicts(b.policy.verdicts))
        yield from self._small(
            "mn_exclude", lambda b: _present(map(codec.encode_exclusion, b.exclusions))
        )
        yield from self._small(
            "mn_exclude_net", lambda b: _present(map(codec.encode_net, b.excluded_nets))
        )
        yield from self._small("mn_probe", lambda b: _present(map(pack_ip, b.probes)))

    def _now(self) -> Basis:
        basis = self._basis()
        assert basis is not None  # Once there, it is only replaced.
        return basis

    def _workloads(self) -> Iterator[str]:
        table = self._tables["mn_workload"]
        for address in list(self._now().addresses()):
            entry = self._now().workload_at(address)
            wanted = codec.encode_workload(entry) if entry is not None else None
            yield self._mend("mn_workload", pack_ip(address), wanted)
        for key in table.scan():
            stale = self._now().workload_at(codec.decode_ip(key)) is None
            yield self._mend("mn_workload", key, None) if stale else ""

    def _services(self) -> Iterator[str]:
        for name in list(self._now().snapshot.services):
            # One service is looked at as a whole: its backends are counted in its entry.
            service = self._now().snapshot.services.get(name)
            entries = dict(self._now().services_of([service] if service is not None else ()))
            for table, wanted in (
                ("mn_backend", codec.encode_backends(entries)),
                ("mn_service", codec.encode_services(entries)),
            ):
                yield from [self._mend(table, key, value) for key, value in wanted.items()]
        for key in self._tables["mn_service"].scan():
            address = codec.decode_service_key(key)
            service = self._now().snapshot.by_vip.get(address.ip)
            known = dict(self._now().services_of([service])) if service is not None else {}
            yield self._mend("mn_service", key, None) if address not in known else ""
        for key in self._tables["mn_backend"].scan():
            yield self._mend("mn_backend", key, None) if self._is_stale_backend(key) else ""

    def _is_stale_backend(self, key: bytes) -> bool:
        number, index = codec.decode_backend_key(key)
        name = self._now().numbering.service_names().get(number)
        service = self._now().snapshot.services.get(name.service) if name is not None else None
        if service is None or name is None:
            return True
        entries = self._now().services_of([service])
        return not any(e.service == number and index < len(e.backends) for _, e in entries)

    def _small(self, name: str, wanted: Callable[[Basis], Entries]) -> Iterator[str]:
        """A map that grows with what runs on this node only: compared at once."""
        entries, actual = wanted(self._now()), dict(self._tables[name].items())
        yield from [
            self._put(name, key, value)
            for key, value in entries.items()
            if actual.get(key) != value
        ]
        yield from [self._put(name, key, None) for key in actual if key not in entries]

    def _mend(self, name: str, key: bytes, wanted: bytes | None) -> str:
        return "" if self._tables[name].lookup(key) == wanted else self._put(name, key, wanted)

    def _put(self, name: str, key: bytes, wanted: bytes | None) -> str:
        try:
            if wanted is None:
                return f"{name}: a stale entry" if self._tables[name].delete(key) else ""
            self._tables[name].update(key, wanted)
        except KernelError as error:
            return f"{name}: an entry that cannot be put back ({error})"
        return f"{name}: an entry"


def _present(keys: Iterable[bytes]) -> Entries:
    return dict.fromkeys(keys, PRESENT)
