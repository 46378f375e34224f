"""`meshnode dashboard`."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import webbrowser
from collections.abc import Callable

import click

from agent.cli.reach.observers import Observer, finder
from agent.cli.reach.prometheus import Prometheus, open_prometheus, prometheus_option
from agent.cli.reach.reach_options import reach_options
from agent.listening import bind_tcp
from agent.options import parse_listen
from mesh.errors import ConfigError
from mesh.model.address import SocketAddress

DEFAULT_LISTEN = "127.0.0.1:15090"


@click.command()
@click.option(
    "--listen",
    default=DEFAULT_LISTEN,
    show_default=True,
    metavar="HOST:PORT",
    help="Loopback address to serve at; port 0 takes a free one.",
)
@click.option("--open", "show", is_flag=True, help="Open a browser too.")
@prometheus_option
@reach_options
def dashboard(listen: str, show: bool, prometheus: str | None, node: str | None) -> None:
    """Serve a page with the service graph, golden numbers, denials, health and a simulator.

    Asks the agents and waypoints of this machine, or of a cluster. The address that is printed
    holds a secret: who does not know it sees nothing. Ctrl-C ends it.
    """
    address = _parse(listen)

    asked, history = finder(node), open_prometheus(prometheus)
    asyncio.run(_serve(address, asked, history, show))


def _parse(text: str) -> SocketAddress:
    host, _, port = text.rpartition(":")
    address = parse_listen("--listen", f"{host}:1" if port == "0" else text)
    if not address.ip.is_loopback:
        raise ConfigError(f"--listen {text}: the page is for this machine only, use 127.0.0.1:PORT")
    return SocketAddress(address.ip, 0) if port == "0" else address


async def _serve(
    address: SocketAddress,
    asked: Callable[[], list[Observer]],
    history: Prometheus | None,
    show: bool,
) -> None:
    from aiohttp import web

    from agent.dashboard.server import Dashboard

    secret = secrets.token_urlsafe(24)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sock = _bind(address)
    runner = web.AppRunner(
        Dashboard(asked, secret, history).app(),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=1.0,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
        host = f"[{address.ip}]" if address.ip.version == 6 else str(address.ip)
        url = f"http://{host}:{sock.getsockname()[1]}/#secret={secret}"
        click.echo(f"the mesh is at {url}")
        if show:
            webbrowser.open(url)
        await stop.wait()
    finally:
        await runner.cleanup()
        sock.close()


def _bind(address: SocketAddress) -> socket.socket:
    try:
        return bind_tcp(address)
    except OSError as error:
        raise ConfigError(
            f"--listen {address}: {error.strerror}; choose another, or port 0 for a free one"
        ) from error
