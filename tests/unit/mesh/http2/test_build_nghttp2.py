from __future__ import annotations

from pathlib import Path

import pytest

from mesh.http2 import build_nghttp2

HEADER = Path(build_nghttp2.__file__).with_name("shim.h")


def test_the_declarations_are_taken_from_the_header() -> None:
    text = build_nghttp2.declarations(HEADER.read_text())
    assert "int mn_receive(mn_session *s" in text
    assert "#" not in text


def test_lost_marks_are_noticed() -> None:
    with pytest.raises(ValueError, match="marks"):
        build_nghttp2.declarations("int mn_receive();")
