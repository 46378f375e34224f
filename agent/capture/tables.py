"""What `meshnode bpf …` can list, by name: the same on the node and from afar."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from agent.capture import inspect
from agent.capture.fsck import fsck
from agent.capture.views import WIDE, KernelTable

_READERS: Mapping[KernelTable, Callable[[str], Sequence[object]]] = {
    KernelTable.MAPS: inspect.maps,
    KernelTable.PROGS: inspect.progs,
    KernelTable.LINKS: inspect.links,
    KernelTable.ENROLLED: inspect.enrolled,
    KernelTable.ORIGDST: inspect.origdst,
    KernelTable.IDENTITY: inspect.identity,
    KernelTable.POLICY: inspect.policy,
    KernelTable.SERVICE: inspect.service,
    KernelTable.STATS: inspect.stats,
    KernelTable.FLOWS: inspect.flows,
    KernelTable.DROPS: inspect.drops,
    KernelTable.FSCK: fsck,
}


def read_table(node: str, table: KernelTable) -> Sequence[object]:
    """Entries as `agent.capture.views`. Blocks; changes nothing. Raises `KernelError`."""
    return _READERS[table](node)


def plain_table(node: str, table: KernelTable) -> tuple[Mapping[str, object], ...]:
    """The same for JSON. Ids of 64 bits are text: readers lose digits above 2**53."""
    found = msgspec.to_builtins(read_table(node, table))
    return tuple(
        {name: str(value) if name in WIDE else value for name, value in entry.items()}
        for entry in found
    )


def names_of(node: str) -> tuple[Mapping[int, str], Mapping[int, str]]:
    """Names of the workloads and services that entries only have numbers of."""
    numbering = inspect.saved_numbering(node)
    services = {
        number: f"{key.service}:{key.port}" for number, key in numbering.service_names().items()
    }
    return numbering.workload_names(), services
