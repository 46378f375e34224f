"""Policy in the form the kernel looks it up: small numbers, no strings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from mesh.model.verdict import Decision, RuleRef
from mesh.model.workload import WorkloadUid


class KernelVerdict(IntEnum):
    """What `connect()` to a workload of the same node does."""

    PROXY = 0
    """Unknown, or needs L7 or encryption: through ztunnel."""
    ALLOW = 1
    DENY = 2


@dataclass(frozen=True, slots=True)
class VerdictKey:
    """(source class, destination class, destination port); port 0 = every other port."""

    src: int
    dst: int
    port: int


@dataclass(frozen=True, slots=True)
class VerdictValue:
    """The verdict and the number of its reason in `KernelPolicy.reasons`."""

    verdict: KernelVerdict
    reason: int


@dataclass(frozen=True, slots=True)
class VerdictReason:
    """Why, for access logs and `meshnode bpf policy`.

    `audited` and `dry_run` are the rules that leave a mark on a connection that was decided so.
    """

    decision: Decision
    decided_by: RuleRef | None
    audited: tuple[RuleRef, ...] = ()
    dry_run: tuple[RuleRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPolicy:
    """Verdicts between the enrolled workloads of one node.

    Workloads that no policy can tell apart share a class number (from 1 on), so the table grows
    with the number of distinct identities, not of pods squared.
    """

    src_class: Mapping[WorkloadUid, int]
    dst_class: Mapping[WorkloadUid, int]
    verdicts: Mapping[VerdictKey, VerdictValue]
    reasons: tuple[VerdictReason, ...]

    def reason(self, src: WorkloadUid, dst: WorkloadUid, port: int) -> VerdictReason | None:
        """Why the kernel decides as it does between two workloads; None if it does not."""
        pair = self.src_class.get(src, 0), self.dst_class.get(dst, 0)
        value = self.verdicts.get(VerdictKey(*pair, port)) or self.verdicts.get(
            VerdictKey(*pair, 0)
        )
        return self.reasons[value.reason] if value is not None else None
