"""The standalone controller: a CA served from its state directory, and a health endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from controller.health import health_endpoint
from controller.metrics import controller_registry
from mesh.identity.arrivals import Arrivals
from mesh.identity.ca import CaSettings
from mesh.identity.directory import IdentityDirectory
from mesh.identity.host import CaHost
from mesh.identity.profiles import RandomBytes
from mesh.identity.server import Authenticator, ServerLimits
from mesh.identity.state_dir import StateDir


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """Where to listen; port 0 lets the kernel choose.

    Attributes:
        host: address to serve on; empty for every address of both families.
        health_port: None for no health endpoint.
    """

    state_dir: Path
    host: str = ""
    port: int = 15012
    health_host: str = "127.0.0.1"
    health_port: int | None = 15014
    ca: CaSettings = field(default_factory=CaSettings)
    limits: ServerLimits = field(default_factory=ServerLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerPorts:
    """The ports the controller listens on."""

    ca: int
    health: int | None


async def run_controller(
    settings: ControllerSettings,
    *,
    directory: IdentityDirectory,
    clock: Callable[[], float],
    random_bytes: RandomBytes,
    stop: asyncio.Event,
    on_ready: Callable[[ControllerPorts], None],
    authenticator: Authenticator | None = None,
    arrivals: Arrivals | None = None,
) -> None:
    """Serve until `stop` is set or the task is cancelled; both leave nothing behind.

    Args:
        directory: who runs where; `mesh.identity.directory.SnapshotDirectory` for a source.
        on_ready: called once when everything listens.
        authenticator: None for join tokens of the state directory.
        arrivals: holds requests that come before what they are about.

    Raises `ConfigError` for a state directory or an address that cannot be used.
    """
    host = CaHost(
        StateDir(settings.state_dir),
        directory=directory,
        clock=clock,
        random_bytes=random_bytes,
        settings=settings.ca,
        limits=settings.limits,
        authenticator=authenticator,
        arrivals=arrivals,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(host.stop)
        ca_port = await host.start(settings.host, settings.port)
        health_port = await _serve_health(settings, host, stack)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(host.run())
            on_ready(ControllerPorts(ca=ca_port, health=health_port))
            await stop.wait()
            running.cancel()


async def _serve_health(
    settings: ControllerSettings, host: CaHost, stack: AsyncExitStack
) -> int | None:
    """The port it got; None where nobody wants it. `stack` closes it."""
    if settings.health_port is None:
        return None
    return await stack.enter_async_context(
        health_endpoint(
            settings.health_host,
            settings.health_port,
            lambda: host.problem,
            controller_registry(host),
        )
    )
