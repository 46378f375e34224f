"""Paths and hosts in their one form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import RemoteProtocolError
from mesh.model.snapshot import PathNormalization
from mesh.routing.path import (
    PathRules,
    normalize_path,
    remove_dot_segments,
    split_authority,
)

NONE, BASE, MERGE, DECODE = (PathRules(normalization=mode) for mode in PathNormalization)


@pytest.mark.parametrize(
    ("path", "base", "merge", "decode"),
    [
        ("/", "/", "/", "/"),
        ("*", "*", "*", "*"),
        ("/a/b/", "/a/b/", "/a/b/", "/a/b/"),
        ("/a/./b", "/a/b", "/a/b", "/a/b"),
        ("/a/../b", "/b", "/b", "/b"),
        ("/../../a", "/a", "/a", "/a"),
        ("/a/..", "/", "/", "/"),
        ("/a/.", "/a/", "/a/", "/a/"),
        ("/a/b/..", "/a/", "/a/", "/a/"),
        ("/%61%2D%7e", "/a-~", "/a-~", "/a-~"),
        ("/a/%2e%2E/b", "/b", "/b", "/b"),
        ("/a/%252e%252e/b", "/a/%252e%252e/b", "/a/%252e%252e/b", "/a/%252e%252e/b"),
        ("/a%2fb%5cc", "/a%2Fb%5Cc", "/a%2Fb%5Cc", "/a/b/c"),
        ("/a%2f..%2fb", "/a%2F..%2Fb", "/a%2F..%2Fb", "/b"),
        ("/a\\..\\b", "/b", "/b", "/b"),
        ("//a///b", "//a///b", "/a/b", "/a/b"),
        ("/a//../b", "/a/b", "/a/b", "/a/b"),
        ("/.a/b..", "/.a/b..", "/.a/b..", "/.a/b.."),
        ("/a%20b%c3%a9", "/a%20b%C3%A9", "/a%20b%C3%A9", "/a%20b%C3%A9"),
    ],
)
def test_normalisation(path: str, base: str, merge: str, decode: str) -> None:
    assert normalize_path(path, BASE) == base
    assert normalize_path(path, MERGE) == merge
    assert normalize_path(path, DECODE) == decode
    assert normalize_path(path, NONE) == path


@pytest.mark.parametrize(
    "path", ["", "a", "http://a/", "/a%00", "/%", "/%4", "/%zz", "/a b", "/a\x00", "/\xe9", "/a#b"]
)
@pytest.mark.parametrize("rules", [NONE, BASE, MERGE, DECODE])
def test_paths_that_are_refused(path: str, rules: PathRules) -> None:
    with pytest.raises(RemoteProtocolError):
        normalize_path(path, rules)


def test_encoded_slashes_can_be_refused() -> None:
    strict = PathRules(reject_encoded_slashes=True)
    for path in ("/a%2Fb", "/a%5cb"):
        with pytest.raises(RemoteProtocolError, match="encoded slash"):
            normalize_path(path, strict)
    assert normalize_path("/a%2db", strict) == "/a-b"


@given(st.text(alphabet="/.%2eEfF\\a5cC", max_size=12), st.sampled_from([BASE, MERGE, DECODE]))
def test_what_comes_out_has_no_dot_segment_and_does_not_change_again(
    text: str, rules: PathRules
) -> None:
    try:
        once = normalize_path("/" + text, rules)
    except RemoteProtocolError:
        return
    assert once.startswith("/")
    assert not {".", ".."} & set(once.split("/"))
    assert normalize_path(once, rules) == once


def test_dot_segments_of_the_rfc() -> None:
    assert remove_dot_segments("/a/b/c/./../../g") == "/a/g"


@pytest.mark.parametrize(
    ("authority", "host", "port"),
    [
        ("Echo", "echo", None),
        ("echo.shop.:8080", "echo.shop", 8080),
        ("[::1]:80", "[::1]", 80),
        ("[FE80::1]", "[fe80::1]", None),
        ("10.0.0.1:1", "10.0.0.1", 1),
    ],
)
def test_authorities(authority: str, host: str, port: int | None) -> None:
    assert split_authority(authority) == (host, port)


@pytest.mark.parametrize(
    "authority",
    ["", ":80", "a:", "a:0", "a:65536", "a:1000000", "u@a", "a b", "a/b", "::1", "a:8\u0661", "-a"],
)
def test_authorities_that_are_refused(authority: str) -> None:
    with pytest.raises(RemoteProtocolError):
        split_authority(authority)
