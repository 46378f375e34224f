"""Tables and the views of the kernel's maps."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent.capture.views import (
    BackendView,
    DropView,
    EnrolledView,
    LinkView,
    MapView,
    PolicyView,
    ServiceView,
    StatsView,
)
from agent.cli.kernel import kernel_tables
from agent.cli.kernel.kernel_tables import Names, format_entries, plain_entries
from agent.cli.output.table import age, columns, counted, size, table

NAMES = Names(workloads={7: "pod/shop/cart"}, services={9: "shop/pay:80"})
NUMERIC = Names(workloads=NAMES.workloads, services=NAMES.services, numeric=True)
COOKIE = 2**64 - 1

ENROLLED = EnrolledView(
    netns_cookie=COOKIE,
    workload=7,
    src_class=1,
    flags=("excludes_port",),
    addresses=("10.0.0.1",),
    listeners=("10.0.0.1",),
    excluded_ports=(6379, 5432),
    excluded_uids=(),
    excluded_inbound_ports=(),
    excluded_cidrs=(),
)


def test_numbers_stand_to_the_right_and_nothing_is_cut() -> None:
    text = table(columns("NAME >N"), [("x" * 300, "1"), ("y", "1000")], "2 rows")
    lines = text.splitlines()
    assert lines[1] == "x" * 300 + "     1"
    assert lines[2].endswith("  1000")
    assert {len(line) for line in lines[1:3]} == {306}
    assert lines[3] == "2 rows"


def test_empty_cells_and_control_characters() -> None:
    assert table(columns("A B"), [("", "a\nb\x1b[0m")]).splitlines()[1] == "-  a\\nb\\x1b[0m"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172800, "2d"), (-300, "-5m")],
)
def test_ages(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_sizes_and_counts() -> None:
    assert [size(n) for n in (0, 1023, 1024, 3 << 30)] == ["0 B", "1023 B", "1.0 KiB", "3.0 GiB"]
    assert [counted(n, w) for n, w in ((1, "entry"), (2, "entry"), (0, "address"), (2, "map"))] == [
        "1 entry",
        "2 entries",
        "0 addresses",
        "2 maps",
    ]


def test_names_are_resolved_unless_numeric() -> None:
    assert "pod/shop/cart" in format_entries(kernel_tables.ENROLLED, [ENROLLED], NAMES)
    text = format_entries(kernel_tables.ENROLLED, [ENROLLED], NUMERIC)
    assert "pod/shop/cart" not in text
    assert "6379,5432" in text


def test_a_number_without_a_name_is_marked() -> None:
    stats = StatsView(
        src_workload=7, dst_workload=8, port=80, path="direct", opened=1, closed=1, failed=0,
        bytes_sent=5, bytes_received=2048, retransmits=0, mean_rtt_us=12.4,
    )  # fmt: skip
    text = format_entries(kernel_tables.STATS, [stats], NAMES)
    assert "8 <missing>" in text
    assert "2.0 KiB" in text


def test_json_keeps_cookies_and_adds_names() -> None:
    [plain] = json.loads(json.dumps(plain_entries(kernel_tables.ENROLLED, [ENROLLED], NAMES)))
    assert plain["netns_cookie"] == str(COOKIE)
    assert (plain["workload"], plain["workload_name"]) == (7, "pod/shop/cart")
    assert plain["excluded_ports"] == [6379, 5432]


def test_dangling_backends_are_marked() -> None:
    service = ServiceView(
        vip="10.96.0.1",
        port=80,
        service=9,
        flags=(),
        backends=(
            BackendView(index=0, address="fd00::2", port=8080),
            BackendView(index=1, address="", port=0, missing=True),
        ),
    )
    text = format_entries(kernel_tables.SERVICES, [service], NAMES)
    assert "[fd00::2]:8080,1 <missing>" in text
    assert "shop/pay:80" in text
    [plain] = plain_entries(kernel_tables.SERVICES, [service], NAMES)
    assert plain["service_name"] == "shop/pay:80"


def map_view(entries: int | None) -> MapView:
    return MapView(
        name="mn_workload", id=5, type="hash", key_bytes=16, value_bytes=24, entries=entries,
        max_entries=100, memlock_bytes=1 << 20, schema="v1", pin="/pin",
    )  # fmt: skip


def test_a_map_that_is_nearly_full_is_marked() -> None:
    assert "81% !" in format_entries(kernel_tables.MAPS, [map_view(81)], NAMES)
    assert "!" not in format_entries(kernel_tables.MAPS, [map_view(80)], NAMES)
    assert "%" not in format_entries(kernel_tables.MAPS, [map_view(None)], NAMES)


def test_an_array_is_always_full_and_never_marked() -> None:
    array = replace(map_view(100), type="percpu_array")
    assert "%" not in format_entries(kernel_tables.MAPS, [array], NAMES)


def test_rows_are_sorted() -> None:
    rows = [
        PolicyView(src_class=2, dst_class=1, port=0, verdict="allow", policy_reason=1),
        PolicyView(src_class=1, dst_class=1, port=80, verdict="deny", policy_reason=2),
    ]
    lines = format_entries(kernel_tables.POLICY, rows, NAMES).splitlines()
    assert [line.split()[3] for line in lines[1:3]] == ["deny", "allow"]
    assert lines[2].split()[2] == "*"
    assert lines[3] == "2 verdicts"


def test_links_and_drops() -> None:
    link = LinkView(
        name="mn_connect4", id=1, prog_id=2, prog="mn_connect4", attach="cgroup", target=3,
        defunct=True, pin="/pin",
    )  # fmt: skip
    assert "defunct" in format_entries(kernel_tables.LINKS, [link], NAMES)
    drop = DropView(reason="deny_policy", number=15, count=3, refusal=True)
    assert "refused" in format_entries(kernel_tables.DROPS, [drop], NAMES)
