"""Judges a node: what it pinned, and what its agent says."""

from __future__ import annotations

from collections.abc import Iterator

from agent.admin.view import CertificateState, NodeStatus, PodState
from agent.cli.checks.facts import NodeFacts
from agent.cli.checks.result import Anchor, Check, Group
from mesh.model.snapshot import Severity

_PINS = Group("kernel state")
_AGENT = Group("agent")

MIN_VALIDITY_S = 3600.0


def node_checks(facts: NodeFacts, now: float) -> Iterator[Check]:
    """Pins first, then the agent. A node that does not run is no failure, only a warning."""
    yield from _pins(facts)
    if facts.status is None:
        hint = "start it with `meshnode agent`"
        yield _AGENT.warning("running", facts.no_status, hint, Anchor.AGENT)
        return
    yield _AGENT.ok("running", f"node {facts.node}, pid {facts.status.pid}")
    yield _ready(facts.status)
    yield _revision(facts.status)
    yield _holder(facts.status)
    yield _workers(facts.status)
    yield _certificates(facts.status, now)
    yield _pods(facts.status)
    yield _source(facts.status)


def _pins(facts: NodeFacts) -> Iterator[Check]:
    if not facts.can_read_pins:
        yield _PINS.skipped("pins", "needs root")
        return
    if facts.other_schemas:
        detail = ", ".join(facts.other_schemas)
        hint = "`meshnode uninstall` removes them, or run the version that made them"
        yield _PINS.failed("schema", detail, hint, Anchor.SCHEMA)
    if not facts.pinned_maps and not facts.pinned_progs:
        yield _PINS.skipped("pins", "nothing is pinned: the agent never ran here")
        return
    missing = facts.missing_maps + facts.missing_progs
    if missing:
        hint = "restart the agent: it loads and pins what is missing"
        yield _PINS.failed("pins", f"missing: {', '.join(missing)}", hint, Anchor.PINS)
    else:
        number = len(facts.pinned_maps) + len(facts.pinned_progs)
        yield _PINS.ok("pins", f"{number} maps and programs")
    if facts.pinned_links:
        yield _PINS.ok("links", f"{len(facts.pinned_links)} attached")
    else:
        hint = "restart the agent: without links nothing is captured"
        yield _PINS.failed("links", "no program is attached", hint, Anchor.LINKS)


def _ready(status: NodeStatus) -> Check:
    if not status.not_ready:
        return _AGENT.ok("ready")
    hint = "see the other findings here, and the agent's log"
    return _AGENT.failed("ready", "; ".join(status.not_ready), hint, Anchor.READY)


def _revision(status: NodeStatus) -> Check:
    behind = status.revision - status.applied_revision
    if behind <= 0:
        return _AGENT.ok("newest objects applied", f"revision {status.revision}")
    detail = f"kernel and workers are {behind} revisions behind"
    hint = "ask again in a second; if it stays, `meshnode bpf diff` shows what is missing"
    return _AGENT.warning("newest objects applied", detail, hint, Anchor.REVISION)


def _holder(status: NodeStatus) -> Check:
    if status.holder is not None and status.holder.alive:
        return _AGENT.ok("holder", f"pid {status.holder.pid}")
    hint = "the agent starts it again; its log says why it ended"
    return _AGENT.failed("holder", "not running: new connections are refused", hint, Anchor.HOLDER)


def _workers(status: NodeStatus) -> Check:
    ready = sum(worker.ready for worker in status.workers)
    detail = f"{ready} of {len(status.workers)} ready"
    if ready and ready == len(status.workers):
        return _AGENT.ok("workers", detail)
    hint = "the agent's log says why a worker is not ready"
    if ready:
        return _AGENT.warning("workers", detail, hint, Anchor.WORKERS)
    return _AGENT.failed("workers", detail, hint, Anchor.WORKERS)


def _certificates(status: NodeStatus, now: float) -> Check:
    bad = [
        f"{one.identity}: {one.reason or one.state}"
        for one in status.certificates
        if one.state is not CertificateState.VALID
    ]
    hint = "`meshnode certs` lists them; see whether the certificate authority answers"
    if bad:
        return _AGENT.failed("certificates", "; ".join(bad), hint, Anchor.CERTIFICATES)
    late = [one.identity for one in status.certificates if one.not_after - now < MIN_VALIDITY_S]
    if late:
        detail = f"less than an hour left: {', '.join(late)}"
        return _AGENT.warning("certificates", detail, hint, Anchor.CERTIFICATES)
    return _AGENT.ok("certificates", f"{len(status.certificates)} valid")


def _pods(status: NodeStatus) -> Check:
    failed = [pod for pod in status.pods if pod.state is PodState.FAILED]
    pending = [pod for pod in status.pods if pod.state is PodState.PENDING]
    hint = "`meshnode status` lists the pods; the canary's reason says what is in the way"
    if failed:
        detail = "; ".join(f"{pod.namespace}/{pod.name}: {pod.reason}" for pod in failed)
        return _AGENT.failed("pods captured (canary)", detail, hint, Anchor.PODS)
    if pending:
        detail = ", ".join(f"{pod.namespace}/{pod.name}" for pod in pending)
        return _AGENT.warning("pods captured (canary)", f"pending: {detail}", hint, Anchor.PODS)
    return _AGENT.ok("pods captured (canary)", f"{len(status.pods)} active")


def _source(status: NodeStatus) -> Check:
    errors = [one for one in status.problems if one.severity is Severity.ERROR]
    hint = "mend the object; the last good one stays in force until then"
    if errors:
        detail = "; ".join(f"{one.where}: {one.message}" for one in errors)
        return _AGENT.failed("objects", detail, hint, Anchor.SOURCE)
    if status.problems:
        detail = "; ".join(f"{one.where}: {one.message}" for one in status.problems)
        return _AGENT.warning("objects", detail, hint, Anchor.SOURCE)
    return _AGENT.ok("objects", "no problem")
