from __future__ import annotations

import pytest

from mesh.http2.fields import find_bad_field

GOOD = (b"name", b"value")


@pytest.mark.parametrize(
    "field", [GOOD, (b":method", b"GET"), (b"a-b_c.1", b""), (b"x", b"tab\tand \xc3\xa9")]
)
def test_good_fields(field: tuple[bytes, bytes]) -> None:
    assert find_bad_field([GOOD, field]) is None


@pytest.mark.parametrize("name", [b"", b":", b"Name", b"na me", b"na:me", b"n\0", b"n\n", b"\xc3"])
def test_bad_names(name: bytes) -> None:
    assert find_bad_field([GOOD, (name, b"v")]) == name


@pytest.mark.parametrize("value", [b"\0", b"a\r", b"a\nb", b"a\n", b"\x7f", b"\x01"])
def test_bad_values(value: bytes) -> None:
    assert find_bad_field([GOOD, (b"bad", value)]) == b"bad"
