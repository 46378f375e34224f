"""What became of a pod's enrolment, written where people look: into annotations of the pod.

`meshnode.io/enrolment` is `pending`, `active` (a canary connection has passed) or `failed`, with
the reason beside it. Only what is different from the last time is written, a few pods a second,
through the door of the pod's status; an API server that is away is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from agent.admin.view import PodStatus
from mesh.sources.kubernetes.config import load_configuration
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.resources import collection_path
from mesh.sources.kubernetes.share import ENROLMENT_ANNOTATION, ENROLMENT_REASON_ANNOTATION
from mesh.sources.kubernetes.transport import MERGE_PATCH, KubeApi

log = logging.getLogger(__name__)

LOOK_S = 0.5
PAUSE_S = 0.05
"""A node that starts has a hundred pods to write, and a thousand nodes may start together."""
MAX_REASON = 512
RETRY_S = 5.0

State = tuple[str, str, str]
"""State, reason, and the cookie of the namespace, which tells a pod from a later one of its name;
all empty for a pod that is not to be in the mesh."""
_NOTHING: State = ("", "", "")


class ObservedState:
    """Writes the states of this node's pods.

    Args:
        statuses: every pod that is to be in the mesh, as it is now.
    """

    def __init__(
        self,
        api: KubeApi,
        statuses: Callable[[], Sequence[PodStatus]],
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self._api = api
        self._retry_s = retry_s
        self._statuses = statuses
        self._written: dict[tuple[str, str], State] = {}

    async def run(self) -> None:
        """Keep the annotations as the pods are, until cancelled."""
        while True:
            is_well = await self._round()
            await asyncio.sleep(LOOK_S if is_well else self._retry_s)

    async def _round(self) -> bool:
        wanted = {(status.namespace, status.name): _state(status) for status in self._statuses()}
        left = {name: _NOTHING for name in self._written if name not in wanted}
        for name, state in {**wanted, **left}.items():
            if self._written.get(name) == state:
                continue
            try:
                await self._write(name, state)
            except KubeError as error:
                if not error.is_missing:
                    log.warning("the state of pod %s/%s was not written: %s", *name, error)
                    return False
            if state == _NOTHING:
                self._written.pop(name, None)
            else:
                self._written[name] = state
            await asyncio.sleep(PAUSE_S)
        return True

    async def _write(self, name: tuple[str, str], state: State) -> None:
        path = f"{collection_path('v1', 'pods', name[0])}/{name[1]}/status"
        await self._api.request(
            "PATCH", path, body=msgspec.json.encode(_patch(state)), content_type=MERGE_PATCH
        )


def _state(status: PodStatus) -> State:
    return str(status.state), status.reason[:MAX_REASON], status.cookie


def _patch(state: State) -> Mapping[str, object]:
    text, reason, _ = state
    annotations = {
        ENROLMENT_ANNOTATION: text or None,
        ENROLMENT_REASON_ANNOTATION: reason or None,
    }
    return {"metadata": {"annotations": annotations}}


async def open_observed_state(
    kubeconfig: Path | None,
    statuses: Callable[[], Sequence[PodStatus]],
    stack: AsyncExitStack,
) -> ObservedState:
    """Connect to the API server; `stack` closes the connection. Raises `ConfigError`."""
    api = await stack.enter_async_context(KubeApi(await load_configuration(kubeconfig)))
    return ObservedState(api, statuses)
