"""Choose an HTTP/2 engine."""

from __future__ import annotations

from typing import Literal

from mesh.errors import ConfigError
from mesh.http2.contract import Http2Session, SessionSettings

Engine = Literal["nghttp2", "h2"]


def new_session(settings: SessionSettings, engine: Engine = "nghttp2") -> Http2Session:
    """Open a session. Raises `ConfigError` if the engine is unknown, or not built on this machine
    (the text says how to build it), or if the settings break the protocol's limits."""
    # Imported here: a machine without the compiled engine must be able to run the other one.
    if engine == "nghttp2":
        from mesh.http2.nghttp2 import Nghttp2Session

        return Nghttp2Session(settings)
    if engine == "h2":
        from mesh.http2.pure import PureSession

        return PureSession(settings)
    raise ConfigError(f"unknown HTTP/2 engine {engine!r}; there are nghttp2 and h2")
