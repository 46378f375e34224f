from __future__ import annotations

import subprocess
import sys

import pytest

from mesh.errors import ConfigError
from mesh.tunnel.select import best_engine, engine_factory, parse_engine

_WITHOUT_NATIVE = """
import sys
sys.modules["mesh.tunnel.native._native"] = None
from mesh.errors import ConfigError
from mesh.tunnel.select import best_engine, engine_factory

assert best_engine() == "python"
engine_factory("python")
try:
    engine_factory("native")
except ConfigError as error:
    print(error)
"""


def test_names() -> None:
    assert parse_engine("native") == "native"
    assert parse_engine("python") == "python"
    with pytest.raises(ConfigError, match="native and python"):
        parse_engine("rust")


def test_the_native_engine_is_taken_where_it_was_built() -> None:
    assert best_engine() == "native"
    assert engine_factory("native") is not engine_factory("python")


def test_without_the_compiled_engine_the_error_says_how_to_build_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_NATIVE], capture_output=True, text=True, check=True
    )
    assert "python -m mesh.tunnel.native.build" in done.stdout
