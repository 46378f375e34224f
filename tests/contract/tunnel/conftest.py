"""The engines that must keep the tunnel contract."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from mesh.tunnel.contract import TunnelEngine, TunnelSettings
from mesh.tunnel.native.engine import NativeTunnelEngine
from mesh.tunnel.python_engine import PythonTunnelEngine
from tests.support.tunnel import EngineFactory


def _python(http2: Literal["nghttp2", "h2"]) -> EngineFactory:
    def make(loop: asyncio.AbstractEventLoop, settings: TunnelSettings) -> TunnelEngine:
        return PythonTunnelEngine(loop, settings, http2)

    return make


@pytest.fixture(params=["python-nghttp2", "python-h2", "native"])
def factory(request: pytest.FixtureRequest) -> EngineFactory:
    if request.param == "native":
        return NativeTunnelEngine
    return _python("h2" if request.param == "python-h2" else "nghttp2")
