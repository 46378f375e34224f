"""What the kernel holds, decoded from the pins alone: works whether or not an agent runs.

Every function takes the node's name and raises `KernelError` (ENOENT: nothing is loaded; EPERM:
needs root; no number: the pins are of another layout). See `views` for the meaning of fields.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from enum import IntFlag
from pathlib import Path

from agent.capture import links as link_pins
from agent.capture import maps as codec
from agent.capture import pins, syscalls
from agent.capture.desired import ConfigEntry, KernelState
from agent.capture.flows import list_flows
from agent.capture.numbering import Numbering, numbering_file, parse_numbering
from agent.capture.table import Table
from agent.capture.telemetry import read_reasons, read_traffic
from agent.capture.views import (
    BackendView,
    Difference,
    DropView,
    EnrolledView,
    FlowView,
    IdentityView,
    LinkView,
    MapView,
    OrigDstView,
    PolicyView,
    ProgView,
    ServiceView,
    StatsView,
)
from agent.paths import NodePaths
from bpf.layout import MAPS, AttachType, ClientKey, Exclusion, MapType, OrigDst
from mesh.errors import KernelError


def saved_numbering(node: str) -> Numbering:
    """The numbering that the node process saved; empty if there is none."""
    try:
        text = numbering_file(NodePaths(node)).read_text(encoding="utf-8")
    except OSError:
        return Numbering()
    return parse_numbering(text)


def maps(node: str) -> list[MapView]:
    """Inventory of the pinned maps, those of other schemas included."""
    root = NodePaths(node).pin_root
    return [_map_view(path) for path in sorted(root.glob("*/maps/*"))]


def progs(node: str) -> list[ProgView]:
    """Inventory of the pinned programs."""
    views: list[ProgView] = []
    for path in sorted(NodePaths(node).pin_root.glob("*/progs/*")):
        with _opened(path) as fd:
            info = syscalls.prog_info(fd)
        views.append(
            ProgView(
                name=path.name,
                id=info.id,
                tag=bytes(info.tag).hex(),
                verified_insns=info.verified_insns,
                run_count=info.run_count,
                run_time_ns=info.run_time_ns,
                pin=str(path),
            )
        )
    return views


def links(node: str) -> list[LinkView]:
    """Inventory of the pinned links."""
    return [_link_view(p) for p in sorted(NodePaths(node).pin_root.glob("*/links/*"))]


def config(node: str) -> ConfigEntry | None:
    """The settings; None before the agent has written any."""
    with pins.open_map(NodePaths(node), "mn_config") as table:
        entry = codec.decode_config(table.lookup(bytes(4)) or b"")
    return entry if entry.outbound_port else None


def enrolled(node: str) -> list[EnrolledView]:
    """The captured namespaces."""
    paths = NodePaths(node)
    with pins.open_maps(paths) as tables:
        addresses: dict[int, list[str]] = defaultdict(list)
        for key, raw in tables["mn_workload"].items():
            if cookie := codec.decode_workload(raw).netns_cookie:
                addresses[cookie].append(str(codec.decode_ip(key)))
        listeners = {str(codec.decode_ip(key)) for key in _keys(tables["mn_listener"])}
        excluded: dict[tuple[int, Exclusion], list[int]] = defaultdict(list)
        for key in _keys(tables["mn_exclude"]):
            entry = codec.decode_exclusion(key)
            excluded[entry.netns_cookie, entry.kind].append(entry.value)
        nets: dict[int, list[str]] = defaultdict(list)
        for key in _keys(tables["mn_exclude_net"]):
            net = codec.decode_net(key)
            nets[net.netns_cookie].append(str(net.network))
        pods = {
            codec.decode_cookie(k): codec.decode_pod(v) for k, v in tables["mn_enrolled"].items()
        }
    return [
        EnrolledView(
            netns_cookie=cookie,
            workload=pod.workload,
            src_class=pod.src_class,
            flags=_names(pod.flags),
            addresses=tuple(sorted(addresses[cookie])),
            listeners=tuple(sorted(listeners.intersection(addresses[cookie]))),
            excluded_ports=tuple(sorted(excluded[cookie, Exclusion.PORT])),
            excluded_uids=tuple(sorted(excluded[cookie, Exclusion.UID])),
            excluded_inbound_ports=tuple(sorted(excluded[cookie, Exclusion.INBOUND])),
            excluded_cidrs=tuple(sorted(nets[cookie])),
        )
        for cookie, pod in sorted(pods.items())
    ]


def origdst(node: str) -> list[OrigDstView]:
    """Captured connections that ztunnel has not asked about yet."""
    with pins.open_map(NodePaths(node), "mn_orig_dst") as table:
        rows = [
            (ClientKey.from_buffer_copy(key), OrigDst.from_buffer_copy(raw))
            for key, raw in table.items()
        ]
    return [
        OrigDstView(
            netns_cookie=key.netns_cookie,
            src=str(key.addr.ip),
            src_port=key.port,
            dst=str(value.addr.ip),
            dst_port=value.port,
        )
        for key, value in sorted(rows, key=lambda row: (row[0].netns_cookie, row[0].port))
    ]


def identity(node: str) -> list[IdentityView]:
    """The addresses the kernel knows, and whose they are."""
    with pins.open_map(NodePaths(node), "mn_workload") as table:
        rows = [(key, codec.decode_workload(raw)) for key, raw in _sorted(table)]
    return [
        IdentityView(
            address=str(codec.decode_ip(key)),
            workload=entry.workload,
            netns_cookie=entry.netns_cookie,
            dst_class=entry.dst_class,
            flags=_names(entry.flags),
        )
        for key, entry in rows
    ]


def policy(node: str) -> list[PolicyView]:
    """The same-node verdicts."""
    with pins.open_map(NodePaths(node), "mn_verdict") as table:
        rows = [(codec.decode_verdict_key(k), codec.decode_verdict(v)) for k, v in table.items()]
    return [
        PolicyView(
            src_class=key.src,
            dst_class=key.dst,
            port=key.port,
            verdict=value.verdict.name.lower(),
            policy_reason=value.reason,
        )
        for key, value in sorted(rows, key=lambda row: (row[0].src, row[0].dst, row[0].port))
    ]


def service(node: str) -> list[ServiceView]:
    """The virtual addresses with their backends; a backend that is counted but absent is shown."""
    paths = NodePaths(node)
    with (
        pins.open_map(paths, "mn_service") as table,
        pins.open_map(paths, "mn_backend") as backends,
    ):
        rows = [
            (codec.decode_service_key(key), codec.decode_service(raw))
            for key, raw in _sorted(table)
        ]
        return [
            ServiceView(
                vip=str(vip.ip),
                port=vip.port,
                service=number,
                flags=_names(flags),
                backends=tuple(_backend(backends, number, index) for index in range(count)),
            )
            for vip, (number, count, flags) in rows
        ]


def stats(node: str) -> list[StatsView]:
    """Traffic of direct and passthrough connections, all processors together."""
    with pins.open_map(NodePaths(node), "mn_stats") as table:
        rows = list(read_traffic(table))
    return [
        StatsView(
            src_workload=key.src_workload,
            dst_workload=key.dst_workload,
            port=key.port,
            path=key.path.name.lower(),
            opened=sums.opened,
            closed=sums.closed,
            failed=sums.failed,
            bytes_sent=sums.bytes_sent,
            bytes_received=sums.bytes_received,
            retransmits=sums.retransmits,
            mean_rtt_us=sums.rtt_us_sum / sums.rtt_samples if sums.rtt_samples else 0.0,
        )
        for key, sums in sorted(
            rows, key=lambda r: (r[0].src_workload, r[0].dst_workload, r[0].port)
        )
    ]


def drops(node: str) -> list[DropView]:
    """All reasons with their counts, refusals first."""
    with pins.open_maps(NodePaths(node)) as tables:
        counts = read_reasons(tables)
    views = [
        DropView(reason=reason.label, number=reason, count=count, refusal=reason.is_refusal)
        for reason, count in counts.items()
        if reason
    ]
    return sorted(views, key=lambda view: (not view.refusal, view.number))


def flows(node: str) -> list[FlowView]:
    """The open direct connections, oldest first."""
    with pins.open_maps(NodePaths(node)) as tables:
        found = list_flows(tables)
    now = time.monotonic_ns()
    return [
        FlowView(
            socket_cookie=flow.socket_cookie,
            netns_cookie=flow.netns_cookie,
            src=str(flow.src.ip),
            src_port=flow.src.port,
            dst=str(flow.dst.ip),
            dst_port=flow.dst.port,
            src_workload=flow.src_workload,
            dst_workload=flow.dst_workload,
            age_s=max(0.0, (now - flow.started_ns) / 1e9),
        )
        for flow in found
    ]


def diff(node: str, state: KernelState) -> list[Difference]:
    """Where the kernel differs from a desired state; empty if it does not."""
    found: list[Difference] = []
    with pins.open_maps(NodePaths(node)) as tables:
        for name, wanted in codec.encode_state(state).items():
            actual = dict(tables[name].items())
            found += [
                _difference(name, key, wanted.get(key), actual.get(key))
                for key in sorted(wanted.keys() | actual.keys())
                if wanted.get(key) != actual.get(key)
            ]
    return found


def _difference(name: str, key: bytes, desired: bytes | None, actual: bytes | None) -> Difference:
    show_key, show = _SHOW[name]
    return Difference(
        map=name,
        key=show_key(key),
        desired="" if desired is None else show(desired),
        actual="" if actual is None else show(actual),
    )


def _present(_: bytes) -> str:
    return "present"


def _shown(decode: Callable[[bytes], object]) -> Callable[[bytes], str]:
    return lambda raw: str(decode(raw))


_SHOW: dict[str, tuple[Callable[[bytes], str], Callable[[bytes], str]]] = {
    "mn_config": (lambda _: "settings", _shown(codec.decode_config)),
    "mn_enrolled": (_shown(codec.decode_cookie), _shown(codec.decode_pod)),
    "mn_workload": (_shown(codec.decode_ip), _shown(codec.decode_workload)),
    "mn_service": (_shown(codec.decode_service_key), _shown(codec.decode_service)),
    "mn_backend": (_shown(codec.decode_backend_key), _shown(codec.decode_backend)),
    "mn_verdict": (_shown(codec.decode_verdict_key), _shown(codec.decode_verdict)),
    "mn_exclude": (_shown(codec.decode_exclusion), _present),
    "mn_exclude_net": (_shown(codec.decode_net), _present),
    "mn_probe": (_shown(codec.decode_ip), _present),
}


def _map_view(path: Path) -> MapView:
    spec = next((spec for spec in MAPS if spec.name == path.name), None)
    with _opened(path) as fd:
        info = syscalls.map_info(fd)
        entries: int | None = None
        problem = "" if spec else "unknown map"
        if spec:
            problem = pins.mismatch(spec, fd)
        if spec and not problem and pins.is_countable(spec):
            with Table(spec, os.dup(fd)) as table:
                entries = len(table)
        return MapView(
            name=path.name,
            id=info.id,
            type=_type_name(info.type),
            key_bytes=info.key_size,
            value_bytes=info.value_size,
            entries=entries,
            max_entries=info.max_entries,
            memlock_bytes=syscalls.memlock_bytes(fd),
            schema=path.parent.parent.name,
            pin=str(path),
            problem=problem,
        )


def _type_name(number: int) -> str:
    try:
        return MapType(number).name.lower()
    except ValueError:
        return str(number)


def _link_view(path: Path) -> LinkView:
    with _opened(path) as fd:
        info = syscalls.link_info(fd)
        target = link_pins.link_target(fd)
    return LinkView(
        name=path.name,
        id=info.id,
        prog_id=info.prog_id,
        prog=_prog_name(info.prog_id),
        attach=_attach_name(info),
        target=target,
        defunct=target == 0,
        pin=str(path),
    )


def _attach_name(info: syscalls.LinkInfo) -> str:
    is_netns = info.type == syscalls.LINK_TYPE_NETNS
    return AttachType(info.target >> 32 if is_netns else info.attach_type).name.lower()


def _prog_name(prog_id: int) -> str:
    try:
        fd = syscalls.prog_by_id(prog_id)
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return ""
        raise
    try:
        return str(syscalls.prog_info(fd).name.decode())
    finally:
        os.close(fd)


def _backend(table: Table, number: int, index: int) -> BackendView:
    raw = table.lookup(codec.encode_backend_key(number, index))
    if raw is None:
        return BackendView(index=index, address="", port=0, missing=True)
    backend = codec.decode_backend(raw)
    return BackendView(index=index, address=str(backend.ip), port=backend.port)


def _names(flags: IntFlag) -> tuple[str, ...]:
    return tuple(flag.name.lower() for flag in flags if flag.name)


def _keys(table: Table) -> Iterator[bytes]:
    return table.keys()


def _sorted(table: Table) -> list[tuple[bytes, bytes]]:
    return sorted(table.items())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = syscalls.obj_get(str(path))
    try:
        yield fd
    finally:
        os.close(fd)
