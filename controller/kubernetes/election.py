"""Leader election by a Lease of coordination.k8s.io: work runs only while we lead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from controller.lease import Candidate, LeaseRecord, LeaseTiming
from mesh.sources.kubernetes.errors import KubeError
from mesh.sources.kubernetes.transport import KubeApi

LEASE = "meshnode-controller"
JITTER = 0.2
"""Replicas that start together must not ask together for ever."""

log = logging.getLogger(__name__)


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: datetime | None = None
    renew_time: datetime | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: _Spec = _Spec()


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Monotonic seconds, seconds since the epoch, and uniform [0, 1)."""

    now: Callable[[], float]
    wall: Callable[[], float]
    random: Callable[[], float]


class LeaderElection:
    """Holds the Lease if it can; `run` until cancelled.

    Args:
        identity: of this replica: the pod's name.
        work: run while we lead; cancelled, and waited for, before another may lead.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        namespace: str,
        identity: str,
        clocks: Clocks,
        work: Callable[[], Awaitable[None]],
        timing: LeaseTiming | None = None,
    ) -> None:
        self._api = api
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._clocks = clocks
        self._work = work
        self._timing = timing or LeaseTiming()
        self._identity = identity
        self._candidate = Candidate(identity, self._timing)
        self.leads = asyncio.Event()
        """Set while we lead."""

    def may_write(self) -> bool:
        """Whether we lead at this instant, by the clock and not by what was last noticed."""
        return self._candidate.leads(self._clocks.now())

    async def run(self) -> None:
        """Compete, lead, compete again; lets go of the Lease when cancelled."""
        try:
            while True:
                while not await self._bid():  # noqa: ASYNC110  (asks somebody else)
                    await asyncio.sleep(self._pause_s())
                await self._lead()
        finally:
            await self._release()

    async def _lead(self) -> None:
        log.info("%s leads", self._identity)
        self.leads.set()
        try:
            async with asyncio.TaskGroup() as group:
                working = group.create_task(self._run_work())
                try:
                    await self._keep()
                finally:
                    working.cancel()
        finally:
            self.leads.clear()
        log.warning("%s leads no more: the lease could not be renewed", self._identity)

    async def _run_work(self) -> None:
        await self._work()

    async def _keep(self) -> None:
        """Renew until that fails for too long."""
        while True:
            until = self._candidate.leads_until()
            now = self._clocks.now()
            if until is None or now >= until:
                return
            await asyncio.sleep(min(self._timing.retry_s, until - now))
            try:
                # A server that does not answer must not keep us leading.
                async with asyncio.timeout(max(0.0, until - self._clocks.now())):
                    await self._bid()
            except TimeoutError:
                return

    async def _bid(self) -> bool:
        """One round with the API server. True if we lead after it."""
        try:
            self._candidate.observe(await self._read(), self._clocks.now())
            asked_at = self._clocks.now()
            bid = self._candidate.bid(asked_at, self._clocks.wall())
            if bid is not None:
                self._candidate.won(await self._write(bid), asked_at)
        except KubeError as error:
            if not error.is_conflict:
                log.warning("the lease %s: %s", LEASE, error)
        return self._candidate.leads(self._clocks.now())

    async def _read(self) -> LeaseRecord:
        try:
            body = await self._api.request("GET", f"{self._path}/{LEASE}", timeout_s=5.0)
        except KubeError as error:
            if error.is_missing:
                return LeaseRecord()
            raise
        return _record(body)

    async def _write(self, record: LeaseRecord) -> LeaseRecord:
        body = _manifest(record)
        if record.version:
            path, method = f"{self._path}/{LEASE}", "PUT"
        else:
            path, method = self._path, "POST"
        return _record(await self._api.request(method, path, body=body, timeout_s=5.0))

    async def _release(self) -> None:
        record = self._candidate.release(self._clocks.wall())
        if record is None:
            return
        try:
            await self._write(record)
        except KubeError as error:
            log.info("the lease %s was not let go: %s", LEASE, error)

    def _pause_s(self) -> float:
        return self._timing.retry_s * (1.0 + JITTER * self._clocks.random())


def _record(body: bytes) -> LeaseRecord:
    try:
        lease = msgspec.json.decode(body, type=_Lease)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KubeError(f"the lease {LEASE} cannot be read: {error}") from error
    spec = lease.spec
    return LeaseRecord(
        holder=spec.holder_identity or "",
        duration_s=float(spec.lease_duration_seconds or 0),
        acquired_at=spec.acquire_time.timestamp() if spec.acquire_time else 0.0,
        renewed_at=spec.renew_time.timestamp() if spec.renew_time else 0.0,
        transitions=spec.lease_transitions or 0,
        version=lease.metadata.resource_version,
    )


def _manifest(record: LeaseRecord) -> bytes:
    metadata: dict[str, object] = {"name": LEASE}
    if record.version:
        metadata["resourceVersion"] = record.version
    return msgspec.json.encode(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": record.holder,
                "leaseDurationSeconds": max(1, round(record.duration_s)),
                "acquireTime": _micro_time(record.acquired_at),
                "renewTime": _micro_time(record.renewed_at),
                "leaseTransitions": record.transitions,
            },
        }
    )


def _micro_time(at: float) -> str:
    """metav1.MicroTime."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
