"""`meshnode uninstall`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from agent.cli.shared import Output, answer, node_option, output_option, paths_of
from agent.paths import NodePaths
from mesh.errors import KernelError


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@node_option
@output_option()
def uninstall(yes: bool, node: str | None, output: Output) -> None:
    """Remove everything of a node: links, pins, routes, cgroup, holder, run-time files.

    Refuses while the agent runs. Pods talk plainly afterwards, and connections that pass ztunnel
    end. Repeating it does no harm.
    """
    paths = paths_of(node)
    if not yes:
        question = f"Take node {paths.node} out of the mesh and remove all its state?"
        click.confirm(question, abort=True, err=True)
    removed = remove_node(paths)
    body = {"schema_version": 1, "node": paths.node, "removed": removed}
    answer(output, body, lambda: "\n".join(removed) or f"nothing of node {paths.node} was left")


def remove_node(paths: NodePaths) -> list[str]:
    """Clean the kernel, end workers and holder, delete the run-time directory; returns it in words.

    Raises `ConfigError` while an agent holds the node's lock, `KernelError` without root.
    """
    from agent.capture.uninstall import uninstall as clean_kernel
    from agent.holder.launch import stop_holder
    from agent.node.lock import node_lock
    from agent.node.strangers import kill_workers

    if os.geteuid() != 0:
        raise KernelError("meshnode uninstall", 1, "It needs root: run the command with sudo.")
    had_run_dir = paths.run_dir.is_dir()
    with node_lock(paths):
        # Capture ends before the listeners go: nobody is sent to a port that answers no more.
        removed = clean_kernel(paths.node, list(_pod_namespaces(paths)))
        # Those of an agent that was killed are still there.
        removed += [f"worker {pid}" for pid in kill_workers(paths)]
        if stop_holder(paths):
            removed.append("holder")
        shutil.rmtree(paths.run_dir)
        if had_run_dir:
            removed.append(f"directory {paths.run_dir}")
    return removed


def _pod_namespaces(paths: NodePaths) -> Iterator[str]:
    """Namespaces that this node captures, by their netns cookies: others may have pods here too."""
    from agent.netns import netns_cookie, open_netns

    captured = _captured(paths)
    seen: set[int] = set()
    for path in _namespace_files() if captured else ():
        try:
            inode = path.stat().st_ino
            if inode in seen:
                continue
            seen.add(inode)
            fd = open_netns(str(path))
        except (OSError, KernelError):
            continue  # the process or the namespace ended just now
        try:
            if netns_cookie(fd) in captured:
                yield str(path)
        except KernelError:
            continue  # a leftover file of /run/netns that is no namespace any more
        finally:
            os.close(fd)


def _captured(paths: NodePaths) -> set[int]:
    """Netns cookies by links and by map: either may have been removed by somebody."""
    from agent.capture.links import attached_lookups
    from agent.capture.maps import decode_cookie
    from agent.capture.pins import open_map

    captured = attached_lookups(paths)
    try:
        pods = open_map(paths, "mn_enrolled")
    except KernelError:
        return captured  # not there, or of another version
    try:
        return captured | {decode_cookie(key) for key in pods.keys()}  # noqa: SIM118
    finally:
        pods.close()


def _namespace_files() -> Iterator[Path]:
    yield from Path("/run/netns").glob("*")
    yield from Path("/proc").glob("[0-9]*/ns/net")
