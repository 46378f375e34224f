"""`layout.h` as a C compiler sees it, against its Python mirror."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from enum import IntEnum, IntFlag
from pathlib import Path

import pytest

import bpf
from agent.holder.sockets import OUTBOUND_MARK
from bpf import layout

SOURCES = Path(bpf.__file__).parent
ENUMS: dict[str, type[IntEnum] | type[IntFlag]] = {
    "MN_R_": layout.Reason,
    "MN_PATH_": layout.PathKind,
    "MN_EVENT_": layout.EventKind,
    "MN_EXCLUDE_": layout.Exclusion,
    "MN_CONFIG_": layout.ConfigFlag,
    "MN_POD_": layout.PodFlag,
    "MN_WORKLOAD_": layout.WorkloadFlag,
    "MN_SERVICE_": layout.ServiceFlag,
    "MN_SOCK_": layout.SockFlag,
    "MN_COUNTED_": layout.Counted,
}


def expectations() -> dict[str, int]:
    """C expressions and the values Python expects of them."""
    wanted = {
        "MN_SOURCE_HASH_BYTES": layout.SOURCE_HASH_BYTES,
        "MN_LPM_COOKIE_BITS": layout.LPM_COOKIE_BITS,
        "MN_ZTUNNEL_MARK": layout.ZTUNNEL_MARK,
        "MN_OUTBOUND_MARK": OUTBOUND_MARK,
        "MN_R_COUNT": len(layout.Reason),
    }
    for name, mirror in layout.STRUCTS.items():
        wanted[f"sizeof(struct {name})"] = ctypes.sizeof(mirror)
        for field, *_ in mirror._fields_:
            wanted[f"offsetof(struct {name}, {field})"] = getattr(mirror, field).offset
            size = getattr(mirror, field).size
            wanted[f"sizeof(((struct {name} *)0)->{field})"] = size
    for prefix, enum in ENUMS.items():
        for member in enum:
            wanted[f"{prefix}{member.name}"] = int(member)
    return wanted


def test_sizes_offsets_and_numbers(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    wanted = expectations()
    lines = "\n".join(f'printf("%ld\\n", (long)({expression}));' for expression in wanted)
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n"
        f'#include "layout.h"\nint main(void) {{ {lines} return 0; }}\n',
        encoding="ascii",
    )
    binary = tmp_path / "layout"
    subprocess.run([compiler, f"-I{SOURCES}", "-o", str(binary), str(source)], check=True)
    printed = subprocess.run([str(binary)], check=True, capture_output=True, text=True).stdout
    assert dict(zip(wanted, map(int, printed.split()), strict=True)) == wanted


def test_every_struct_and_enum_value_has_a_mirror() -> None:
    text = (SOURCES / "layout.h").read_text(encoding="ascii")
    structs = {line.split()[1] for line in text.splitlines() if line.startswith("struct ")}
    assert structs == layout.STRUCTS.keys()
    for prefix, enum in ENUMS.items():
        in_c = {
            line.split()[0].removeprefix(prefix)
            for line in text.splitlines()
            if line.startswith(f"\t{prefix}") and "=" in line
        }
        assert in_c - {"COUNT"} == set(enum.__members__), prefix


def test_no_hidden_padding() -> None:
    """Keys are compared byte by byte: every byte belongs to a field."""
    for name, mirror in layout.STRUCTS.items():
        covered = sum(getattr(mirror, field).size for field, *_ in mirror._fields_)
        assert covered == ctypes.sizeof(mirror), name


def test_names_fit_the_kernel() -> None:
    for name in [*(spec.name for spec in layout.MAPS), *(spec.name for spec in layout.PROGRAMS)]:
        assert len(name) <= 15
        assert name.startswith("mn_")


def test_map_numbers_agree_with_c() -> None:
    text = (SOURCES / "maps.h").read_text(encoding="ascii")
    in_c = {
        line.split()[1].removeprefix("INDEX_OF_"): int(line.split()[2])
        for line in text.splitlines()
        if line.startswith("#define INDEX_OF_")
    }
    assert in_c == {spec.name: spec.index for spec in layout.MAPS if spec.name != "mn_meta"}


def test_licences_agree() -> None:
    for path in sorted([*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]):
        first, second, *rest = path.read_text(encoding="ascii").splitlines()
        assert first == "/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */", path
        assert second.startswith("/* Copyright"), path
        if path.name == "meshnode.c":
            assert rest[0] == "#define BPF_LICENSE Dual BSD/GPL"
    assert "Dual BSD/GPL" in (SOURCES / "LICENSE").read_text(encoding="ascii")
