"""What the C sources and Python must say alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mesh.http2 import limits
from mesh.tunnel import guards
from mesh.tunnel.native import build

FOLDER = Path(build.__file__).parent


def test_the_declarations_are_taken_from_the_header() -> None:
    text = build.declarations((FOLDER / "native.h").read_text())
    assert "mt_engine *mt_engine_new(const mt_settings *settings);" in text
    assert "#" not in text


def test_lost_marks_are_noticed() -> None:
    with pytest.raises(ValueError, match="marks"):
        build.declarations("int mt_accept();")


def test_every_source_is_compiled() -> None:
    found = {path.name for path in FOLDER.glob("*.c") if not path.name.startswith("_")}
    assert found == set(build.SOURCES)


def test_limits_are_those_of_the_portable_engine() -> None:
    shared = Path(limits.__file__).parent / "flood.h"
    text = (FOLDER / "guards.h").read_text() + shared.read_text()
    numbers = {
        name: float(value) for name, value in re.findall(r"#define (\w+) ([\d.]+)u?$", text, re.M)
    }
    for name in ("MAX_CONTINUATIONS", "MAX_BAD_ENDS", "MAX_IDLE_FRAMES", "IDLE_CREDIT"):
        assert numbers[name] == getattr(limits, name)
    for name in ("RESET_BURST", "RESETS_PER_S"):
        assert numbers[name] == getattr(guards, name)
