"""The Autobahn suite's own fuzzing client, at an echo server and at the same through a waypoint.

A proxy is transparent: whatever the server makes of a case, the waypoint must not change it. The
suite (`autobahntestsuite` of PyPI) runs on Python 2.7 only: put its `wstest` on the PATH. Without
it, tests/contract/waypoint/test_websocket.py has 77 of its cases.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from mesh.model.address import SocketAddress, parse_ip
from tests.contract.http1.stage import run, stage

WSTEST = shutil.which("wstest")
CASES = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*")
"""Without the gigabytes of 9 (limits), 12 and 13 (compression), which is the end points' affair."""


async def echo(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass


async def ends(folder: Path, cases: Sequence[str]) -> dict[str, dict[str, str]]:
    """How cases end, by agent and case."""
    assert WSTEST is not None
    async with serve(echo, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        address = SocketAddress(parse_ip("127.0.0.1"), port)
        async with stage(addresses=(address,)) as here:
            urls = {"direct": port, "waypoint": here.port}
            spec = {
                "outdir": str(folder / "reports"),
                "servers": [
                    {"agent": name, "url": f"ws://127.0.0.1:{each}"} for name, each in urls.items()
                ],
                "cases": list(cases),
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
            (folder / "spec.json").write_text(json.dumps(spec))
            process = await asyncio.create_subprocess_exec(
                *(WSTEST, "-m", "fuzzingclient", "-s", str(folder / "spec.json")),
                stdout=asyncio.subprocess.DEVNULL,
            )
            async with asyncio.timeout(600):
                assert await process.wait() == 0
    found = json.loads((folder / "reports" / "index.json").read_text())
    return {
        agent: {name: case["behavior"] for name, case in cases.items()}
        for agent, cases in found.items()
    }


def worse(found: dict[str, dict[str, str]]) -> list[str]:
    """Cases that fail through the waypoint only."""
    direct, through = found["direct"], found["waypoint"]
    assert len(direct) == len(through)
    return [name for name in through if "FAILED" == through[name] != direct[name]]


@pytest.mark.slow
@pytest.mark.skipif(WSTEST is None, reason="needs wstest of autobahntestsuite on the PATH")
def test_every_case_ends_as_without_a_waypoint(tmp_path: Path) -> None:
    """A case that fails is tried once more: some wait for a second only, on a busy machine."""

    for name in ("first", "second"):
        (tmp_path / name).mkdir()

    async def main() -> None:
        found = await ends(tmp_path / "first", CASES)
        assert Counter(found["waypoint"].values())["OK"] > 200
        left = worse(found)
        if left:
            assert worse(await ends(tmp_path / "second", left)) == []

    run(main())
