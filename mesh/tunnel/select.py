"""Choose a tunnel engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from mesh.errors import ConfigError
from mesh.tunnel.contract import TunnelEngine, TunnelSettings

Engine = Literal["native", "python"]
ENGINES: tuple[Engine, ...] = ("native", "python")
EngineFactory = Callable[[asyncio.AbstractEventLoop, TunnelSettings], TunnelEngine]


def parse_engine(name: str) -> Engine:
    """Raises `ConfigError` for a name that no engine has."""
    if name not in ENGINES:
        raise ConfigError(f"unknown tunnel engine {name!r}; there are {' and '.join(ENGINES)}")
    return name


def best_engine() -> Engine:
    """The native engine where it was built and can be loaded, else the portable one."""
    try:
        engine_factory("native")
    except ConfigError:
        return "python"
    return "native"


def engine_factory(engine: Engine) -> EngineFactory:
    """Load an engine: everything it imports is loaded when this returns.

    Raises `ConfigError` if it was not built on this machine (the text says how to build it).
    """
    # Imported here: a machine without the compiled engine must be able to run the other one.
    if engine == "native":
        from mesh.tunnel.native.engine import NativeTunnelEngine

        return NativeTunnelEngine
    from mesh.tunnel.python_engine import PythonTunnelEngine

    return lambda loop, settings: PythonTunnelEngine(loop, settings, "nghttp2")
