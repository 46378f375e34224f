"""A worker without privilege imports nothing more: it may not be able to read its own files."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.unit.mesh.jwt.issuer import ALGORITHMS, jwks, signer, token

WORKER = """
import asyncio, json, sys
import uvloop
import {main}
from mesh.jwt.keys import parse_key_set
from mesh.jwt.token import parse_token
from mesh.jwt.verify import check_signature
from mesh.privilege.late import load_late_modules

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        raise ImportError(f"imported late: {{name}}")

async def look_up():
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, len, "")
    await loop.getaddrinfo("localhost", 80)
    "b\\u00fccher.example".encode("idna")

tokens = json.load(sys.stdin)
load_late_modules()
sys.meta_path.insert(0, Forbidden())
uvloop.run(look_up())
for keys, text in tokens:
    check_signature(parse_token(text), parse_key_set(keys.encode()))
"""


@pytest.mark.parametrize("main", ["waypoint.__main__", "agent.ztunnel.__main__"])
def test_nothing_is_imported_late(main: str) -> None:
    signed = [(jwks(by).decode(), token(by)) for by in map(signer, ALGORITHMS)]
    done = subprocess.run(
        [sys.executable, "-c", WORKER.format(main=main)],
        input=json.dumps(signed),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
