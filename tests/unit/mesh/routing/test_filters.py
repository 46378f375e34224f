"""Filters on message heads, where the conformance table does not reach."""

from __future__ import annotations

import pytest

from mesh.model.routing import (
    Cors,
    HeaderEdit,
    HeaderField,
    PathRewrite,
    PathRewriteType,
    Redirect,
)
from mesh.routing.cors import allows_origin
from mesh.routing.filters import edit_headers, redirect, rewrite_path
from mesh.routing.message import RequestHead, first_values


@pytest.mark.parametrize(
    ("path", "prefix", "replacement", "result"),
    [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo//evil.example", "/foo", "/", "/evil.example"),
        ("/foo", "/", "/xyz", "/xyz/foo"),
        ("/", "/", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "xyz", "/xyz/bar"),
    ],
)
def test_the_standards_table_of_prefix_rewrites(
    path: str, prefix: str, replacement: str, result: str
) -> None:
    rewrite = PathRewrite(kind=PathRewriteType.PREFIX, value=replacement)
    assert rewrite_path(path, rewrite, prefix.rstrip("/")) == result


def test_header_edits_of_repeated_headers() -> None:
    headers = (("a", "1"), ("b", "x"), ("a", "2"), ("set-cookie", "c=1"))
    added = HeaderEdit(
        add=(HeaderField(name="a", value="3"), HeaderField(name="set-cookie", value="d=2"))
    )
    assert edit_headers(headers, added) == (
        ("a", "1,2,3"),
        ("b", "x"),
        ("set-cookie", "c=1"),
        ("set-cookie", "d=2"),
    )
    replaced = HeaderEdit(set=(HeaderField(name="a", value="9"),), remove=("set-cookie",))
    assert edit_headers(headers, replaced) == (("b", "x"), ("a", "9"))


def test_a_redirect_names_the_listeners_port() -> None:
    head = RequestHead(method="GET", path="/p", authority="Host.:1234", query="a=b")
    assert redirect(head, Redirect(), None, 8080).headers == (
        ("location", "http://host:8080/p?a=b"),
    )
    secure = RequestHead(method="GET", path="/", authority="h", scheme="https")
    assert redirect(secure, Redirect(), None, 443).headers == (("location", "https://h/"),)
    plain = Redirect(scheme="http")
    assert redirect(secure, plain, None, 443).headers == (("location", "http://h/"),)


@pytest.mark.parametrize(
    ("allowed", "origin", "expected"),
    [
        ("https://a.com", "https://A.com", True),
        ("https://a.com", "https://a.com:8443", False),
        ("https://*.a.com", "https://x.y.a.com", True),
        ("https://*.a.com", "https://a.com", False),
        ("https://*.a.com", "https://a.com.evil", False),
        ("https://a.com:*", "https://a.com:8443", True),
        ("https://*", "https://x:1", True),
        ("https://*", "http://x", False),
        ("*", "null", True),
    ],
)
def test_origins(allowed: str, origin: str, expected: bool) -> None:
    assert allows_origin(Cors(allow_origins=(allowed,)), origin) is expected


def test_query_parameters() -> None:
    assert first_values("a=1&b=%20+x&a=2&&c&=v&d=a=b") == {
        "a": "1",
        "b": "  x",
        "c": "",
        "": "v",
        "d": "a=b",
    }
    assert first_values(None) == {}
