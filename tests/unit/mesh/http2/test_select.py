from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
sys.modules["mesh.http2._nghttp2"] = None
from mesh.errors import ConfigError
from mesh.http2.contract import SessionSettings
from mesh.http2.select import new_session

settings = SessionSettings(
    client=True, stream_window_bytes=65535, connection_window_bytes=65535, max_frame_bytes=16384,
    max_header_list_bytes=65536, max_concurrent_streams=10,
)
assert new_session(settings, "h2").wants_output
try:
    new_session(settings)
except ConfigError as error:
    print(error)
"""


def test_without_the_compiled_engine_the_error_says_how_to_build_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert "python -m mesh.http2.build_nghttp2" in done.stdout
