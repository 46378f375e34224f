"""Asks the canary child whether a pod is really captured."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from agent.canary import ADDRESS_V4, ADDRESS_V6
from agent.paths import NodePaths
from mesh.errors import KernelError
from mesh.model.address import IPAddress, parse_ip
from mesh.model.workload import Workload, WorkloadUid

CANARY_V4 = parse_ip(ADDRESS_V4)
CANARY_V6 = parse_ip(ADDRESS_V6)
CANARY_PORT = 1
CANARY_UID = WorkloadUid("workload/meshnode/canary")
ANSWER_TIMEOUT_S = 10.0


CANARY = Workload(
    uid=CANARY_UID,
    name="canary",
    namespace="meshnode",
    service_account="canary",
    trust_domain="",
    node="",
    addresses=(CANARY_V4, CANARY_V6),
    enrolled=True,
)
"""To the kernel, a workload of no node at the canary addresses: connections to it are captured."""


class Canary:
    """The child process, started when first needed; one request at a time."""

    def __init__(self, pods_cgroup: Path, node: str) -> None:
        self._cgroup = pods_cgroup / NodePaths(node).canary_cgroup_name
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def verify(self, netns_path: str, addresses: tuple[IPAddress, ...]) -> str:
        """Empty text if connections of the pod are captured in each family it has, else why not."""
        families = {address.version for address in addresses}
        own = ",".join(map(str, addresses))
        for version, target in ((4, CANARY_V4), (6, CANARY_V6)):
            if version in families:
                answer = await self._ask(f"{netns_path} {target} {CANARY_PORT} {own}\n")
                if answer != "ok":
                    return answer
        return ""

    async def _ask(self, request: str) -> str:
        async with self._turn:
            try:
                process = self._process or await self._start()
                self._process = process
                if process.stdin is None or process.stdout is None:
                    raise KernelError("canary has no pipes")
                process.stdin.write(request.encode())
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await process.stdin.drain()
                    line = await process.stdout.readline()
            except (TimeoutError, OSError) as error:
                await self._kill()
                return f"the canary did not answer: {error or 'time-out'}"
            if not line:
                await self._kill()
                return "the canary process ended"
            return line.decode("utf-8", "replace").strip()

    async def _start(self) -> asyncio.subprocess.Process:
        self._cgroup.mkdir(exist_ok=True)
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent.canary", str(self._cgroup),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def aclose(self) -> None:
        """End the child and remove its cgroup."""
        await self._kill()
        with contextlib.suppress(OSError):
            self._cgroup.rmdir()
