"""`meshnode controller` with lifetimes of seconds, which people cannot ask for.

`authority.py OBJECTS STATE HOST PORT LEAF_LIFETIME_S`
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from controller.run import ControllerSettings, run_controller
from mesh.identity.ca import CaSettings
from mesh.identity.directory import SnapshotDirectory
from mesh.model.snapshot import MeshSnapshot
from mesh.sources.file import FileSource
from mesh.state.reducer import reduce

OVERLAP_S = 2.0


async def main() -> None:
    objects, state_dir, host, port, lifetime = sys.argv[1:]
    source = FileSource(Path(objects))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    latest = [reduce(source.load_once(), None)]

    async def follow() -> None:
        async for found in source.watch():
            latest[0] = reduce(found, latest[0])

    def snapshot() -> MeshSnapshot:
        return latest[0]

    # A skew larger than the lifetime would make every certificate look old from the start.
    ca = CaSettings(
        leaf_lifetime_s=float(lifetime), skew_s=1.0, publish_s=OVERLAP_S, overlap_s=OVERLAP_S
    )
    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow())
        await run_controller(
            ControllerSettings(
                state_dir=Path(state_dir), host=host, port=int(port), health_port=None, ca=ca
            ),
            directory=SnapshotDirectory(snapshot),
            clock=time.time,
            random_bytes=os.urandom,
            stop=stop,
            on_ready=lambda _: print("serving", flush=True),
        )
        following.cancel()


asyncio.run(main())
