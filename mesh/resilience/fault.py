"""Injected faults: which requests are delayed or aborted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from mesh.model.traffic import Fault
from mesh.routing.index import Conditions, compile_conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultDecision:
    """What to do to a request: wait, then abort with a status; None = not."""

    delay_s: float | None = None
    http_status: int | None = None
    grpc_status: int | None = None

    @property
    def aborts(self) -> bool:
        """Whether the request goes no further."""
        return self.http_status is not None or self.grpc_status is not None


NO_FAULT = FaultDecision()


class FaultInjector:
    """The faults of one policy: the first whose headers hold is drawn."""

    __slots__ = ("_faults",)

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults: list[tuple[Fault, Conditions | None]] = [
            (fault, compile_conditions(fault.headers)) for fault in faults
        ]

    def decide(self, headers: Mapping[str, str], random: Random) -> FaultDecision:
        """Draw delay and abort, each by its own percentage."""
        for fault, conditions in self._faults:
            if conditions is None or conditions.hold(headers):
                return _draw(fault, random)
        return NO_FAULT


def _draw(fault: Fault, random: Random) -> FaultDecision:
    delayed = fault.delay_s is not None and random.random() * 100 < fault.delay_percent
    aborted = random.random() * 100 < fault.abort_percent
    if not delayed and not aborted:
        return NO_FAULT
    return FaultDecision(
        delay_s=fault.delay_s if delayed else None,
        http_status=fault.http_status if aborted else None,
        grpc_status=fault.grpc_status if aborted else None,
    )
