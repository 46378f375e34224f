"""Composition root of `meshnode controller`: file source, snapshot, certificate authority."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import click

from agent.options import SourceOption
from controller.run import ControllerPorts, ControllerSettings, run_controller
from mesh.identity.directory import SnapshotDirectory
from mesh.model.address import SocketAddress
from mesh.sources.file import FileSource
from mesh.state.reducer import reduce


def serve_ca(source: SourceOption, state_dir: Path, listen: SocketAddress) -> None:
    """Serve until SIGTERM or SIGINT. Raises `ConfigError`."""
    settings = ControllerSettings(state_dir=state_dir, host=str(listen.ip), port=listen.port)
    asyncio.run(_serve(FileSource(source.directory), settings))


async def _serve(source: FileSource, settings: ControllerSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Who runs where is known before the first request is answered.
    mesh = await asyncio.to_thread(_Latest, source)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(mesh.follow())
        await run_controller(
            settings,
            directory=SnapshotDirectory(lambda: mesh.snapshot),
            clock=time.time,
            random_bytes=os.urandom,
            stop=stop,
            on_ready=_say_ready,
        )
        following.cancel()


class _Latest:
    """Keeps the newest snapshot of a source."""

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self.snapshot = reduce(source.load_once(), None)

    async def follow(self) -> None:
        async for objects in self._source.watch():
            self.snapshot = reduce(objects, self.snapshot)


def _say_ready(ports: ControllerPorts) -> None:
    click.echo(f"meshnode controller: serving certificates on port {ports.ca}", err=True)
