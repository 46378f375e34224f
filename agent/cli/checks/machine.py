"""Judges the machine: could meshnode run here?"""

from __future__ import annotations

from collections.abc import Iterator

from agent.cli.checks.facts import METRICS_PORT, MachineFacts
from agent.cli.checks.result import Anchor, Check, Group

KERNEL_FLOOR = (5, 15)

_ASKED_WITHOUT_ROOT = frozenset({"root", "cgroup v2", "BPF file system", "kernel headers for bcc"})
"""What the probe tries too; here it is found without root, with a hint of its own."""

_MACHINE = Group("machine")
_KERNEL = Group("kernel")


def machine_checks(facts: MachineFacts, *, agent_runs: bool) -> Iterator[Check]:
    """Everything that does not need a node, in the order in which it should be mended."""
    yield _root(facts)
    yield _python(facts)
    yield _bcc(facts)
    yield _seccomp(facts)
    yield _nghttp2(facts)
    yield _headers(facts)
    yield _clock(facts)
    yield _port(facts, agent_runs)
    yield _version(facts)
    yield _cgroup(facts)
    yield _bpffs(facts)
    yield from _features(facts)


def _root(facts: MachineFacts) -> Check:
    if facts.is_root:
        return _MACHINE.ok("running as root")
    hint = "run the command with sudo to see everything; the agent itself needs root"
    return _MACHINE.warning("running as root", "no", hint, Anchor.ROOT)


def _python(facts: MachineFacts) -> Check:
    name = "Python and its modules"
    if not facts.missing_modules:
        return _MACHINE.ok(name, facts.python)
    missing = ", ".join(facts.missing_modules)
    return _MACHINE.failed(name, f"missing: {missing}", "run `make setup`", Anchor.PYTHON)


def _bcc(facts: MachineFacts) -> Check:
    if facts.has_bcc:
        return _MACHINE.ok("bcc")
    hint = "install the distribution's python3-bpfcc, then run `make setup`"
    return _MACHINE.failed("bcc", "not importable", hint, Anchor.BCC)


def _seccomp(facts: MachineFacts) -> Check:
    if facts.has_seccomp:
        return _MACHINE.ok("libseccomp")
    hint = "install libseccomp2; workers drop system calls with it"
    return _MACHINE.failed("libseccomp", "libseccomp.so.2 not found", hint, Anchor.SECCOMP)


def _nghttp2(facts: MachineFacts) -> Check:
    if facts.has_nghttp2:
        return _MACHINE.ok("HTTP/2 engine", "nghttp2")
    hint = "install libnghttp2-dev and run `make setup`; until then the slow engine is used"
    return _MACHINE.warning("HTTP/2 engine", "nghttp2 is not built", hint, Anchor.NGHTTP2)


def _headers(facts: MachineFacts) -> Check:
    if facts.headers:
        return _MACHINE.ok("kernel headers", facts.headers)
    hint = "install any recent linux-headers package; it need not match the kernel"
    detail = facts.headers_problem or "none found"
    return _MACHINE.failed("kernel headers", detail, hint, Anchor.HEADERS)


def _clock(facts: MachineFacts) -> Check:
    match facts.clock_synchronised:
        case True:
            return _MACHINE.ok("clock synchronised")
        case None:
            return _MACHINE.skipped("clock synchronised", "the kernel does not say")
        case False:
            hint = "run an NTP client: certificates of other nodes fail when clocks differ"
            return _MACHINE.warning("clock synchronised", "no", hint, Anchor.CLOCK)


def _port(facts: MachineFacts, agent_runs: bool) -> Check:
    name = f"port {METRICS_PORT} for metrics"
    if agent_runs or not facts.metrics_port_taken:
        return _MACHINE.ok(name)
    hint = "start the agent with another --metrics HOST:PORT, or stop the other program"
    return _MACHINE.warning(name, "taken by another program", hint, Anchor.PORT)


def _version(facts: MachineFacts) -> Check:
    if facts.kernel_version >= KERNEL_FLOOR:
        return _KERNEL.ok("version", facts.kernel)
    floor = ".".join(str(part) for part in KERNEL_FLOOR)
    hint = f"use Linux {floor} or newer"
    return _KERNEL.failed("version", facts.kernel, hint, Anchor.KERNEL)


def _cgroup(facts: MachineFacts) -> Check:
    if facts.cgroup:
        return _KERNEL.ok("cgroup v2", facts.cgroup)
    hint = "mount it: `mount -t cgroup2 none /sys/fs/cgroup/unified`"
    return _KERNEL.failed("cgroup v2", "not mounted", hint, Anchor.CGROUP)


def _bpffs(facts: MachineFacts) -> Check:
    if facts.has_bpffs:
        return _KERNEL.ok("bpffs", "/sys/fs/bpf")
    hint = "mount it: `mount -t bpf bpf /sys/fs/bpf`"
    return _KERNEL.failed("bpffs", "not mounted at /sys/fs/bpf", hint, Anchor.BPFFS)


def _features(facts: MachineFacts) -> Iterator[Check]:
    if facts.features is None:
        yield _KERNEL.skipped("hooks and helpers", "needs root")
        return
    for one in facts.features:
        if one.name in _ASKED_WITHOUT_ROOT:
            continue
        if one.present:
            yield _KERNEL.ok(one.name)
            continue
        since = f"Linux {one.since} and later have it; " if one.since else ""
        if one.required:
            hint = f"{since}the agent does not start without it"
            yield _KERNEL.failed(one.name, one.detail, hint, Anchor.FEATURES)
        else:
            hint = f"{since}the agent works without it"
            yield _KERNEL.warning(one.name, one.detail, hint, Anchor.FEATURES)
