"""Where the node's certificates come from: its own CA, or another one that a token names."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from agent.options import AgentOptions, CaJoin, CaServe
from mesh.errors import ConfigError
from mesh.identity.bootstrap import init_ca
from mesh.identity.client import CaClient, TokenFile
from mesh.identity.directory import SnapshotDirectory
from mesh.identity.host import CaHost
from mesh.identity.source import CertificateSource
from mesh.identity.state_dir import StateDir
from mesh.model.snapshot import MeshSnapshot


async def open_source(
    options: AgentOptions, get_snapshot: Callable[[], MeshSnapshot], stack: AsyncExitStack
) -> tuple[CertificateSource, CaHost | None]:
    """The certificate source of this node, and the CA if it is embedded here.

    Whoever calls runs the CA's `run()`; `stack` stops what was started.
    """
    match options.ca:
        case CaServe() as serve:
            host = await _own_ca(serve, get_snapshot, stack)
            return host.source(options.node), host
        case CaJoin() as join:
            client = CaClient(host=join.host, port=join.port, token=_token(join))
            return await stack.enter_async_context(client), None


async def _own_ca(
    serve: CaServe, get_snapshot: Callable[[], MeshSnapshot], stack: AsyncExitStack
) -> CaHost:
    settings = get_snapshot().settings
    if not serve.state_dir.exists() or not any(serve.state_dir.iterdir()):
        init_ca(
            serve.state_dir,
            trust_domain=settings.trust_domain,
            aliases=settings.trust_domain_aliases,
            now=time.time(),
            random_bytes=os.urandom,
        )
    host = CaHost(
        StateDir(serve.state_dir),
        directory=SnapshotDirectory(get_snapshot),
        clock=time.time,
        random_bytes=os.urandom,
    )
    stack.push_async_callback(host.stop)
    if serve.listen is not None:
        await host.start(str(serve.listen.ip), serve.listen.port)
    return host


def _token(join: CaJoin) -> str | TokenFile:
    try:
        if join.root_file is not None:
            return TokenFile(path=join.token_file, server_root_pem=join.root_file.read_bytes())
        return join.token_file.read_text().strip()
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from error
