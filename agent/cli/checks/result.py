"""One line of `meshnode check`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Anchor(StrEnum):
    """Headings of docs/troubleshooting.md; a test holds the two together."""

    ROOT = "root"
    PYTHON = "python-modules"
    BCC = "bcc"
    SECCOMP = "libseccomp"
    NGHTTP2 = "nghttp2"
    HEADERS = "kernel-headers"
    CLOCK = "clock"
    KERNEL = "kernel-version"
    CGROUP = "cgroup-v2"
    BPFFS = "bpffs"
    FEATURES = "kernel-features"
    PORT = "metrics-port"
    SCHEMA = "pins-of-another-version"
    PINS = "pins"
    LINKS = "links"
    AGENT = "agent"
    READY = "not-ready"
    HOLDER = "holder"
    WORKERS = "workers"
    CERTIFICATES = "certificates"
    PODS = "enrolment"
    SOURCE = "source-problems"
    REVISION = "revision"
    WAYPOINTS = "waypoints"
    CLUSTER = "cluster"
    KINDS = "missing-kinds"
    CONFLICTS = "conflicts"


DOCUMENT = "docs/troubleshooting.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found. `hint` says what to do next; `see` where more is written."""

    group: str
    name: str
    state: State
    detail: str = ""
    hint: str = ""
    see: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Makes the checks of one group."""

    name: str

    def ok(self, name: str, detail: str = "") -> Check:
        return Check(group=self.name, name=name, state=State.OK, detail=detail)

    def skipped(self, name: str, detail: str) -> Check:
        return Check(group=self.name, name=name, state=State.SKIPPED, detail=detail)

    def warning(self, name: str, detail: str, hint: str, anchor: Anchor) -> Check:
        return self._bad(State.WARNING, name, detail, hint, anchor)

    def failed(self, name: str, detail: str, hint: str, anchor: Anchor) -> Check:
        return self._bad(State.FAILED, name, detail, hint, anchor)

    def _bad(self, state: State, name: str, detail: str, hint: str, anchor: Anchor) -> Check:
        return Check(
            group=self.name,
            name=name,
            state=state,
            detail=detail,
            hint=hint,
            see=f"{DOCUMENT}#{anchor}",
        )
