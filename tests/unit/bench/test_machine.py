"""Versions, read from what programs say."""

from __future__ import annotations

from bench.machine import parse_envoy_version, parse_release


def test_the_release_of_envoy_is_found_behind_its_path_and_commit() -> None:
    said = "/opt/bin/envoy  version: 9e5580/1.40.0/Clean/RELEASE/BoringSSL"
    assert parse_envoy_version(said) == "1.40.0"


def test_anything_else_is_unknown() -> None:
    assert parse_envoy_version("envoy: not found") == "unknown"


def test_a_release_is_the_first_number_with_dots() -> None:
    assert parse_release("nginx version: nginx/1.22.1") == "1.22.1"
    assert parse_release("HAProxy version 2.6.12-1+deb12u4 2026/10/17") == "2.6.12"
    assert parse_release("nothing") == "unknown"
