"""`meshnode status`."""

from __future__ import annotations

import time
from collections import Counter

import click

from agent.admin.client import AdminClient
from agent.admin.view import NodeStatus, PodState, PodStatus
from agent.cli.output.exits import Exit
from agent.cli.output.shared import Output, output_option
from agent.cli.output.table import Coloured, age, clean, columns, counted, size, table
from agent.cli.output.watch import answers, watch_option
from agent.cli.reach.nodes import Nodes, as_list, missing_of, node_answers
from agent.cli.reach.reach_options import reach_options
from mesh.model.snapshot import Severity

_COLOURS = {PodState.ACTIVE: "green", PodState.PENDING: "yellow", PodState.FAILED: "red"}


@click.command()
@watch_option
@reach_options
@output_option()
@click.pass_context
def status(context: click.Context, watch: bool, node: str | None, output: Output) -> None:
    """Show the node, its pods, workers and problems; of several nodes, one line for each.

    Ends with 1 if a node is not ready or does not answer, a pod failed, or an object has an error.
    """
    find = node_answers(node, AdminClient.status)
    found = answers(output, find, lambda one: format_statuses(one, time.time()), watch=watch)
    if found is not None and (missing_of(found) or any(map(is_unwell, as_list(found)))):
        context.exit(Exit.NEGATIVE)


def format_statuses(found: NodeStatus | Nodes[NodeStatus], now: float) -> str:
    """One node in full, or a line for each of several."""
    if not isinstance(found, Nodes):
        return format_status(found, now)
    rows = [_node_row(one, now) for one in sorted(found.nodes, key=lambda one: one.node)]
    rows += [(name.removeprefix("node/"), _mark(False), *[""] * 6, reason)
             for name, reason in sorted(found.missing.items())]  # fmt: skip
    heads = columns("NODE READY >UP >REVISION >PODS >FAILED >WORKERS >CONNECTIONS REMARK")
    return table(heads, rows, counted(len(rows), "node"))


def _node_row(status: NodeStatus, now: float) -> tuple[str | Coloured, ...]:
    states = Counter(pod.state for pod in status.pods)
    errors = sum(problem.severity is Severity.ERROR for problem in status.problems)
    remarks = [*status.not_ready, *([f"{counted(errors, 'object')} with an error"] * bool(errors))]
    return (
        status.node,
        _mark(not status.not_ready),
        age(now - status.started_at),
        str(status.revision),
        str(len(status.pods)),
        str(states[PodState.FAILED]) if states[PodState.FAILED] else "",
        f"{sum(worker.ready for worker in status.workers)}/{len(status.workers)}",
        str(sum(status.open_connections.values())),
        "; ".join(remarks),
    )


def _mark(is_ready: bool) -> Coloured:
    return Coloured("yes", "green") if is_ready else Coloured("no", "red")


def is_unwell(status: NodeStatus) -> bool:
    """Whether a person should look at something."""
    return bool(
        status.not_ready
        or any(pod.state is PodState.FAILED for pod in status.pods)
        or any(problem.severity is Severity.ERROR for problem in status.problems)
    )


def format_status(status: NodeStatus, now: float) -> str:
    """The status for people, in paragraphs."""
    parts = [_head(status, now), _pods(status, now), _workers(status)]
    parts += [_problems(status)] if status.problems else []
    return "\n\n".join(parts)


def _head(status: NodeStatus, now: float) -> str:
    behind = status.revision - status.applied_revision
    applied = "applied" if behind <= 0 else f"kernel and workers are {behind} behind"
    holder = status.holder
    lines = {
        "node": status.node,
        "agent": f"{status.version}, pid {status.pid}, up {age(now - status.started_at)}",
        "ready": "yes" if not status.not_ready else "no: " + "; ".join(status.not_ready),
        "source": f"{status.source}, revision {status.revision} ({applied})",
        "holder": "none"
        if holder is None
        else f"pid {holder.pid}{'' if holder.alive else ', dead'}",
        "connections": ", ".join(
            f"{n} {path}" for path, n in sorted(status.open_connections.items())
        )
        or "none",
    }
    return "\n".join(f"{name + ':':<13}{clean(text)}" for name, text in lines.items())


def _pods(status: NodeStatus, now: float) -> str:
    pods = sorted(status.pods, key=lambda pod: (pod.namespace, pod.name))
    rows = [_pod_row(pod, now) for pod in pods]
    states = [f"{sum(pod.state is state for pod in pods)} {state}" for state in PodState]
    footer = f"{counted(len(pods), 'pod')}: {', '.join(states)}"
    heads = columns("NAMESPACE NAME STATE >SINCE ADDRESSES IDENTITY REASON")
    return table(heads, rows, footer)


def _pod_row(pod: PodStatus, now: float) -> tuple[str | Coloured, ...]:
    state = Coloured(pod.state, _COLOURS[pod.state])
    since = age(now - pod.since)
    addresses = ",".join(pod.addresses)
    return (pod.namespace, pod.name, state, since, addresses, pod.identity, pod.reason)


def _workers(status: NodeStatus) -> str:
    rows = [
        (
            str(worker.pid),
            "yes" if worker.ready else "no",
            str(worker.revision),
            str(worker.tunnels),
            str(worker.streams),
            size(worker.rss_bytes),
        )
        for worker in sorted(status.workers, key=lambda worker: worker.pid)
    ]
    heads = columns(">WORKER READY >REVISION >TUNNELS >STREAMS >MEMORY")
    return table(heads, rows, counted(len(rows), "worker"))


def _problems(status: NodeStatus) -> str:
    rows = [(p.severity, p.where, p.subject, p.message) for p in status.problems]
    heads = columns("SEVERITY WHERE OBJECT PROBLEM")
    return table(heads, rows, counted(len(rows), "problem"))
