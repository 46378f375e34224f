"""How each kind of kernel entry is shown: columns for people, plain fields for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.admin.codec import to_plain
from agent.capture.views import (
    WIDE,
    BackendView,
    DropView,
    EnrolledView,
    Finding,
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
from agent.cli.output.table import age, columns, counted, size, table

View = TypeVar("View")


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Numbers of the kernel's maps to names; `numeric` leaves the numbers alone."""

    workloads: Mapping[int, str]
    services: Mapping[int, str]
    numeric: bool = False

    def workload(self, number: int) -> str:
        return self._name(self.workloads, number)

    def service(self, number: int) -> str:
        return self._name(self.services, number)

    def _name(self, names: Mapping[int, str], number: int) -> str:
        if self.numeric or number == 0:
            return str(number)
        return names.get(number, f"{number} <missing>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout(Generic[View]):
    """Headings, the cells of one entry, the order of entries and what they are called."""

    heads: str
    row: Callable[[View, Names], tuple[str, ...]]
    order: Callable[[View], tuple[str | int, ...]]
    noun: str


def format_entries(layout: Layout[View], entries: Sequence[View], names: Names) -> str:
    """A table, sorted, with the number of entries below."""
    ordered = sorted(entries, key=layout.order)
    rows = [layout.row(entry, names) for entry in ordered]
    return table(columns(layout.heads), rows, counted(len(rows), layout.noun))


def plain_entries(
    layout: Layout[View], entries: Sequence[View], names: Names
) -> list[dict[str, object]]:
    """The fields of each entry, in the table's order; numbers of workloads get their names."""
    return [_plain(entry, names) for entry in sorted(entries, key=layout.order)]


def _plain(entry: object, names: Names) -> dict[str, object]:
    fields = to_plain(entry)
    if not isinstance(fields, dict):
        raise TypeError(f"{type(entry).__name__} is not a view")
    plain: dict[str, object] = {}
    for name, value in fields.items():
        plain[name] = str(value) if name in WIDE else value
        if isinstance(value, int) and name.endswith("workload"):
            plain[f"{name}_name"] = names.workloads.get(value, "")
        if isinstance(value, int) and name == "service":
            plain["service_name"] = names.services.get(value, "")
    return plain


def _list(values: Sequence[str] | Sequence[int]) -> str:
    return ",".join(str(value) for value in values)


def _port(port: int) -> str:
    return str(port) if port else "*"


def _percent(view: MapView) -> str:
    full = view.full_percent
    if full is None or view.type.endswith("array"):  # an array is always full
        return ""
    return f"{full:.0f}%" + (" !" if full > 80 else "")


def _seconds(number: int) -> str:
    return f"{number / 1e9:.3f}s"


def _address(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _backend(view: BackendView) -> str:
    return f"{view.index} <missing>" if view.missing else _address(view.address, view.port)


MAPS: Layout[MapView] = Layout(
    heads="NAME >ID TYPE >KEY >VALUE >ENTRIES >MAX >FULL >MEMORY SCHEMA PIN PROBLEM",
    row=lambda v, _: (
        v.name, str(v.id), v.type, str(v.key_bytes), str(v.value_bytes),
        "" if v.entries is None else str(v.entries), str(v.max_entries), _percent(v),
        size(v.memlock_bytes), v.schema, v.pin, v.problem,
    ),
    order=lambda v: (v.name,),
    noun="map",
)  # fmt: skip
PROGS: Layout[ProgView] = Layout(
    heads="NAME >ID TAG >VERIFIED >RUNS >TIME PIN",
    row=lambda v, _: (
        v.name, str(v.id), v.tag, str(v.verified_insns), str(v.run_count),
        _seconds(v.run_time_ns), v.pin,
    ),
    order=lambda v: (v.name,),
    noun="program",
)  # fmt: skip
LINKS: Layout[LinkView] = Layout(
    heads="NAME >ID PROGRAM >PROG-ID ATTACH >TARGET STATE PIN",
    row=lambda v, _: (
        v.name, str(v.id), v.prog, str(v.prog_id), v.attach, str(v.target),
        "defunct" if v.defunct else "attached", v.pin,
    ),
    order=lambda v: (v.name,),
    noun="link",
)  # fmt: skip
ENROLLED: Layout[EnrolledView] = Layout(
    heads=">NETNS-COOKIE WORKLOAD >CLASS FLAGS ADDRESSES LISTENERS"
    " NOT-TO-PORTS NOT-TO-NETS NOT-FROM-UIDS NOT-ON-PORTS",
    row=lambda v, names: (
        str(v.netns_cookie), names.workload(v.workload), str(v.src_class), _list(v.flags),
        _list(v.addresses), _list(v.listeners), _list(v.excluded_ports),
        _list(v.excluded_cidrs), _list(v.excluded_uids), _list(v.excluded_inbound_ports),
    ),
    order=lambda v: (v.netns_cookie,),
    noun="namespace",
)  # fmt: skip
ORIG_DST: Layout[OrigDstView] = Layout(
    heads=">NETNS-COOKIE SOURCE DESTINATION",
    row=lambda v, _: (
        str(v.netns_cookie), _address(v.src, v.src_port), _address(v.dst, v.dst_port),
    ),
    order=lambda v: (v.netns_cookie, v.src, v.src_port),
    noun="connection",
)  # fmt: skip
IDENTITY: Layout[IdentityView] = Layout(
    heads="ADDRESS WORKLOAD >NETNS-COOKIE >CLASS FLAGS",
    row=lambda v, names: (
        v.address, names.workload(v.workload), str(v.netns_cookie or ""), str(v.dst_class),
        _list(v.flags),
    ),
    order=lambda v: (v.address,),
    noun="address",
)  # fmt: skip
POLICY: Layout[PolicyView] = Layout(
    heads=">FROM-CLASS >TO-CLASS >PORT VERDICT >REASON",
    row=lambda v, _: (
        str(v.src_class), str(v.dst_class), _port(v.port), v.verdict, str(v.policy_reason),
    ),
    order=lambda v: (v.src_class, v.dst_class, v.port),
    noun="verdict",
)  # fmt: skip
SERVICES: Layout[ServiceView] = Layout(
    heads="ADDRESS >PORT SERVICE FLAGS BACKENDS",
    row=lambda v, names: (
        v.vip, str(v.port), names.service(v.service), _list(v.flags),
        _list([_backend(backend) for backend in v.backends]),
    ),
    order=lambda v: (v.vip, v.port),
    noun="service port",
)  # fmt: skip
STATS: Layout[StatsView] = Layout(
    heads="FROM TO >PORT PATH >OPENED >CLOSED >FAILED >SENT >RECEIVED >RETRANSMITS >RTT-US",
    row=lambda v, names: (
        names.workload(v.src_workload), names.workload(v.dst_workload), str(v.port), v.path,
        str(v.opened), str(v.closed), str(v.failed), size(v.bytes_sent), size(v.bytes_received),
        str(v.retransmits), f"{v.mean_rtt_us:.0f}",
    ),
    order=lambda v: (v.src_workload, v.dst_workload, v.port, v.path),
    noun="row",
)  # fmt: skip
FLOWS: Layout[FlowView] = Layout(
    heads=">AGE FROM TO SOURCE DESTINATION >SOCKET-COOKIE",
    row=lambda v, names: (
        age(v.age_s), names.workload(v.src_workload), names.workload(v.dst_workload),
        _address(v.src, v.src_port), _address(v.dst, v.dst_port), str(v.socket_cookie),
    ),
    order=lambda v: (int(-v.age_s * 1000), v.socket_cookie),
    noun="flow",
)  # fmt: skip
DROPS: Layout[DropView] = Layout(
    heads="REASON >NUMBER >COUNT MEANING",
    row=lambda v, _: (
        v.reason, str(v.number), str(v.count), "refused" if v.refusal else "passed",
    ),
    order=lambda v: (v.number,),
    noun="reason",
)  # fmt: skip
FINDINGS: Layout[Finding] = Layout(
    heads="SEVERITY WHERE FINDING",
    row=lambda v, _: (v.severity, v.where, v.message),
    order=lambda v: (v.severity, v.where, v.message),
    noun="finding",
)
