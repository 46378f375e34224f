"""`meshnode ca`: the state directory of a standalone certificate authority."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.install import Command, kubeconfig_option, kubeconfig_path
from agent.cli.output.shared import Output, answer, output_option
from agent.cli.output.table import age, columns, counted, table
from agent.cli.tokens import ca_dir_option

if TYPE_CHECKING:
    from controller.admin import RootSummary


@click.group()
def ca() -> None:
    """Look after the certificate authority.

    Works with it running or stopped; a running one sees a change within a second.
    """


@ca.command()
@ca_dir_option
@click.option(
    "--trust-domain",
    default="cluster.local",
    show_default=True,
    metavar="NAME",
    help="Root of all identities it signs.",
)
@output_option()
def init(ca_dir: Path, trust_domain: str, output: Output) -> None:
    """Make a new certificate authority in DIR; never overwrites one."""
    from controller.admin import init_ca, list_roots

    init_ca(ca_dir, trust_domain=trust_domain, now=time.time(), random_bytes=os.urandom)
    _show(output, list_roots(ca_dir))


def _place_options(command: Command) -> Command:
    """`--ca DIR`, or `--cluster NAMESPACE` with `--kubeconfig FILE`."""
    for option in reversed(
        (
            click.option(
                "--ca",
                "ca_dir",
                metavar="DIR",
                type=click.Path(path_type=Path),
                envvar="MESHNODE_CA",
                help="State directory of a standalone authority. Also from MESHNODE_CA.",
            ),
            click.option(
                "--cluster",
                metavar="NAMESPACE",
                help="Instead: the cluster whose controller runs in this namespace.",
            ),
            kubeconfig_option,
        )
    ):
        command = option(command)
    return command


@ca.command()
@_place_options
@output_option()
def roots(ca_dir: Path | None, cluster: str | None, kubeconfig: str | None, output: Output) -> None:
    """List the roots and the stage each is in."""
    from controller import admin

    if (namespace := _cluster(ca_dir, cluster)) is not None:
        from controller.kubernetes.rotate import list_cluster_roots

        found = asyncio.run(list_cluster_roots(kubeconfig_path(kubeconfig), namespace))
    else:
        found = admin.list_roots(_directory(ca_dir))
    _show(output, found)


@ca.command("rotate-root")
@_place_options
@output_option()
def rotate_root(
    ca_dir: Path | None, cluster: str | None, kubeconfig: str | None, output: Output
) -> None:
    """Publish a new root next to the old one.

    The running authority lets the new root sign once every node has had time to trust it, and
    retires the old one when nothing signed by it is valid any more.
    """
    from controller import admin

    now = time.time()
    if (namespace := _cluster(ca_dir, cluster)) is not None:
        from controller.kubernetes.rotate import rotate_cluster_root

        path = kubeconfig_path(kubeconfig)
        found = asyncio.run(rotate_cluster_root(path, namespace, now=now, random_bytes=os.urandom))
    else:
        found = admin.rotate_root(_directory(ca_dir), now=now, random_bytes=os.urandom)
    _show(output, found)


@ca.command("activate-root")
@_place_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option()
def activate_root(
    ca_dir: Path | None, cluster: str | None, kubeconfig: str | None, yes: bool, output: Output
) -> None:
    """Let a published root sign at once, for a compromised key.

    Nodes that have not fetched the new bundle yet refuse its certificates until they have.
    """
    from controller import admin

    namespace = _cluster(ca_dir, cluster)
    if not yes:
        click.confirm("Sign with the new root at once?", abort=True, err=True)
    if namespace is not None:
        from controller.kubernetes.rotate import activate_cluster_root

        path = kubeconfig_path(kubeconfig)
        found = asyncio.run(activate_cluster_root(path, namespace, now=time.time()))
    else:
        found = admin.activate_root(_directory(ca_dir), now=time.time())
    _show(output, found)


def _cluster(ca_dir: Path | None, cluster: str | None) -> str | None:
    """The namespace, where a cluster's authority is meant."""
    if cluster is not None and ca_dir is not None:
        raise click.UsageError("--ca and --cluster exclude each other.")
    return cluster


def _directory(ca_dir: Path | None) -> Path:
    if ca_dir is None:
        raise click.UsageError("Say which authority: --ca DIR, or --cluster NAMESPACE.")
    return ca_dir


def _show(output: Output, found: Sequence[RootSummary]) -> None:
    now = time.time()
    rows = [(one.fingerprint, str(one.stage), age(now - one.since)) for one in found]
    heads = columns("SHA256 STAGE >SINCE")
    body = {"schema_version": 1, "roots": found}
    answer(output, body, lambda: table(heads, rows, counted(len(rows), "root")))
