"""Accounts of cgroups, read from files that look like the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.usage import cpu_seconds, parse_pss, processes, resident_bytes, wait_quiet


def cgroup(path: Path, usage_usec: int, *pids: int) -> Path:
    path.mkdir(parents=True)
    (path / "cpu.stat").write_text(f"usage_usec {usage_usec}\nuser_usec 1\nsystem_usec 2\n")
    (path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return path


def test_cpu_is_the_sum_of_the_cgroups(tmp_path: Path) -> None:
    first, second = cgroup(tmp_path / "a", 1_500_000), cgroup(tmp_path / "b", 250_000)
    assert cpu_seconds([first, second]) == 1.75
    assert cpu_seconds([]) == 0.0


def test_an_account_without_usage_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("user_usec 1\n")
    with pytest.raises(ValueError, match="usage_usec"):
        cpu_seconds([tmp_path])


def test_processes_of_cgroups_below_count(tmp_path: Path) -> None:
    top = cgroup(tmp_path / "a", 0, 11)
    cgroup(top / "below", 0, 12, 13)
    assert sorted(processes([top])) == [11, 12, 13]


def test_own_memory_is_seen_and_an_ended_process_has_none(tmp_path: Path) -> None:
    here = resident_bytes([cgroup(tmp_path / "a", 0, os.getpid())])
    assert 5_000_000 < here < 2_000_000_000
    assert resident_bytes([cgroup(tmp_path / "b", 0, 4_194_304)]) == 0


def test_pss_is_parsed_in_bytes() -> None:
    assert (
        parse_pss("00400000-7fff ---p 00000000 00:00 0 [rollup]\nRss: 9 kB\nPss:   3 kB\n") == 3072
    )
    assert parse_pss("Rss: 9 kB\n") == 0


def test_who_does_nothing_is_quiet_at_once(tmp_path: Path) -> None:
    wait_quiet([cgroup(tmp_path / "a", 5)], for_s=0.0, deadline_s=60.0)
