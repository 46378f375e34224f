"""Events of the tunnels that a worker dials."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from mesh.hbone.pool import PoolKey, TunnelPool
from mesh.model.connection import ResponseFlag
from mesh.tunnel.contract import Loss, LossReason, StreamRequest, Tunnel

log = logging.getLogger(__name__)

W = TypeVar("W")

_FLAG_OF_LOSS = {
    LossReason.TLS: ResponseFlag.TLS_FAILURE,
    LossReason.IDENTITY: ResponseFlag.IDENTITY_ERROR,
    LossReason.PROTOCOL: ResponseFlag.H2_HANDSHAKE_FAILURE,
}


class TunnelUser(Protocol):
    """Whoever dialled; `Outbound` in practice."""

    def tunnel_up(self, key: PoolKey, tunnel: Tunnel, expires_at: float) -> None: ...
    def serve_waiting(self, key: PoolKey) -> None: ...
    def dial_failed(self, key: PoolKey, flag: ResponseFlag, detail: str) -> None: ...


class OutboundTunnel(Generic[W]):
    """`TunnelEvents` of one dialled tunnel; `expires_at`: end of our certificate, epoch s; `lost`
    is called at its end."""

    def __init__(
        self,
        user: TunnelUser,
        pool: TunnelPool[W],
        key: PoolKey,
        expires_at: float,
        lost: Callable[[Tunnel], None],
    ) -> None:
        self._user = user
        self._pool = pool
        self._key = key
        self._expires_at = expires_at
        self._lost = lost
        self._up = False

    def tunnel_up(self, tunnel: Tunnel) -> None:
        self._up = True
        self._user.tunnel_up(self._key, tunnel, self._expires_at)

    def tunnel_draining(self, tunnel: Tunnel) -> None:
        self._pool.lost(self._key, tunnel)

    def stream_requested(self, tunnel: Tunnel, request: StreamRequest) -> None:
        request.refuse(400)  # Servers do not open streams in HBONE.

    def stream_slot_free(self, tunnel: Tunnel) -> None:
        self._user.serve_waiting(self._key)

    def tunnel_lost(self, tunnel: Tunnel, loss: Loss) -> None:
        self._lost(tunnel)
        detail = f"tunnel to {self._key.peer}: {loss.detail or loss.reason}"
        if self._up:
            log.info("%s ended (%s)", detail, loss.reason)
            self._pool.lost(self._key, tunnel)
        else:
            log.warning("%s", detail)
            flag = _FLAG_OF_LOSS.get(loss.reason, ResponseFlag.CONNECT)
            self._user.dial_failed(self._key, flag, detail)
