"""Sandboxes that the plugin announced: what the API server does not know yet of a starting pod."""

from __future__ import annotations

from collections.abc import Callable

from agent.cni.request import Sandbox

MAX_ANNOUNCED = 4096
"""Far above what a node runs; a runtime that never says DEL must not fill the memory."""


class Sandboxes:
    """The newest sandbox of each pod. One thread only."""

    def __init__(self) -> None:
        self._by_pod: dict[tuple[str, str], Sandbox] = {}
        self._listeners: list[Callable[[], None]] = []

    def listen(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` after every announcement."""
        self._listeners.append(on_change)

    def announce(self, sandbox: Sandbox) -> None:
        """Take note; an earlier sandbox of the pod is forgotten."""
        key = (sandbox.namespace, sandbox.name)
        self._by_pod.pop(key, None)
        while len(self._by_pod) >= MAX_ANNOUNCED:
            del self._by_pod[next(iter(self._by_pod))]
        self._by_pod[key] = sandbox
        for tell in self._listeners:
            tell()

    def forget(self, sandbox: Sandbox) -> None:
        """Drop a sandbox; a later one of the same pod stays."""
        key = (sandbox.namespace, sandbox.name)
        known = self._by_pod.get(key)
        if known is not None and known.container == sandbox.container:
            del self._by_pod[key]

    def of_pod(self, namespace: str, name: str, uid: str) -> Sandbox | None:
        """The sandbox of exactly this pod: its name may have belonged to another before."""
        found = self._by_pod.get((namespace, name))
        return found if found is not None and found.uid in ("", uid) else None
