"""`meshnode uninstall`."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from agent.cli.install import kubeconfig_option, kubeconfig_path, namespace_option
from agent.cli.output.shared import Output, answer, node_option, output_option, paths_of
from agent.cni.config import remove_plugin
from agent.paths import NodePaths
from mesh.errors import KernelError


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@node_option
@click.option(
    "--cni-bin-dir", metavar="DIR", default="/opt/cni/bin", help="Where our CNI plugin is."
)
@click.option(
    "--cni-conf-dir",
    metavar="DIR",
    default="/etc/cni/net.d",
    help="Where the CNI configuration is that may name our plugin.",
)
@click.option("--cluster", is_flag=True, help="Remove meshnode from a whole cluster.")
@click.option("--crds", is_flag=True, help="With --cluster: our kinds too, and all their objects.")
@namespace_option
@kubeconfig_option
@output_option()
def uninstall(
    yes: bool,
    node: str | None,
    cni_bin_dir: str,
    cni_conf_dir: str,
    cluster: bool,
    crds: bool,
    namespace: str,
    kubeconfig: str | None,
    output: Output,
) -> None:
    """Remove everything of a node: links, pins, routes, cgroup, holder, run-time files.

    Refuses while the agent runs. Pods talk plainly afterwards, and connections that pass ztunnel
    end. Repeating it does no harm.

    With --cluster it removes the agents, does the same on every node with clean-up pods, and
    deletes what `meshnode install` made.
    """
    if cluster:
        if not yes:
            question = f"Take every pod out of the mesh and remove namespace {namespace}?"
            click.confirm(question, abort=True, err=True)
        removed = asyncio.run(_remove_cluster(namespace, kubeconfig, with_kinds=crds))
        body = {"schema_version": 1, "namespace": namespace, "removed": removed}
        answer(output, body, lambda: "\n".join(removed) or "nothing was installed")
        return
    paths = paths_of(node)
    if not yes:
        question = f"Take node {paths.node} out of the mesh and remove all its state?"
        click.confirm(question, abort=True, err=True)
    removed = remove_node(paths) + remove_plugin(Path(cni_conf_dir), Path(cni_bin_dir))
    body = {"schema_version": 1, "node": paths.node, "removed": removed}
    answer(output, body, lambda: "\n".join(removed) or f"nothing of node {paths.node} was left")


async def _remove_cluster(namespace: str, kubeconfig: str | None, *, with_kinds: bool) -> list[str]:
    from installer.live import find_ours, recorded_values
    from installer.remove import Removal
    from installer.settings import defaults
    from installer.values import Given
    from mesh.sources.kubernetes.config import load_configuration
    from mesh.sources.kubernetes.transport import KubeApi

    async with KubeApi(await load_configuration(kubeconfig_path(kubeconfig))) as api:
        recorded = recorded_values(await find_ours(api, namespace), f"namespace {namespace}")
        values = Given(namespace=namespace, values={**defaults(), **recorded})
        said = ""

        def say(text: str) -> None:
            nonlocal said
            if text != said:
                said = text
                click.echo(text, err=True)

        return await Removal(api, values, say).run(with_kinds=with_kinds)


def remove_node(paths: NodePaths) -> list[str]:
    """Clean the kernel, end workers and holder, delete the run-time directory; returns it in words.

    Raises `ConfigError` while an agent holds the node's lock, `KernelError` without root.
    """
    from agent.capture.uninstall import uninstall as clean_kernel
    from agent.holder.launch import stop_holder
    from agent.kubernetes.container import open_sysctls
    from agent.node.lock import node_lock
    from agent.node.strangers import kill_workers

    if os.geteuid() != 0:
        raise KernelError("meshnode uninstall", 1, "It needs root: run the command with sudo.")
    open_sysctls()
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
