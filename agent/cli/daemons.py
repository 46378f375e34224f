"""`meshnode agent`, `meshnode controller` and `meshnode holder`: the long-running processes."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Unpack

import click

from agent.admin.view import LogLevel
from agent.cli.agent_arguments import AgentArguments, agent_options
from agent.cli.output.exits import Exit
from agent.cli.output.shared import host_name, otlp_ca_option
from agent.options import (
    DEFAULT_AGENT_ACCOUNT,
    DEFAULT_CA_PORT,
    DEFAULT_METRICS,
    AgentOptions,
)
from mesh.errors import KernelError
from mesh.telemetry.access_log import LogFormat
from mesh.telemetry.trace_settings import DEFAULT_SAMPLING

DEFAULT_CA_LISTEN = f"0.0.0.0:{DEFAULT_CA_PORT}"

_node = click.option(
    "--node",
    envvar="MESHNODE_NODE",
    metavar="NAME",
    default=host_name,
    help="Name of this node. Default: the host's name.",
)


@click.command()
@_node
@click.option(
    "--source",
    required=True,
    metavar="file:DIR|kubernetes[:KUBECONFIG]",
    help="Where the mesh's objects are. `kubernetes` alone: the cluster this pod runs in.",
)
@click.option(
    "--host-proc",
    default="/proc",
    show_default=True,
    metavar="PATH",
    help="With --source kubernetes: the host's /proc, where pods' namespaces are found.",
)
@click.option("--cgroup", metavar="PATH", help="Parent cgroup of the pods. Default: the v2 root.")
@click.option("--ca", metavar="DIR", help="Be the certificate authority, with its state in DIR.")
@click.option("--ca-listen", metavar="HOST:PORT", help="With --ca: sign for other nodes here.")
@click.option("--ca-address", metavar="HOST:PORT", help="Get certificates from this agent.")
@click.option("--join-token-file", metavar="FILE", help="With --ca-address: proves this node.")
@click.option(
    "--ca-root-file",
    metavar="FILE",
    help="With --ca-address on Kubernetes: the root of the CA's server (PEM); "
    "--join-token-file is then the projected token of the agent's service account.",
)
@click.option("--trust-domain", metavar="NAME", help="Default: as the mesh's objects say.")
@click.option("--workers", type=int, metavar="N", help="ztunnel workers. Default: one per core.")
@click.option(
    "--metrics",
    default=DEFAULT_METRICS,
    show_default=True,
    metavar="HOST:PORT",
    help="Where /metrics and /healthz are served.",
)
@click.option(
    "--view",
    metavar="HOST:PORT",
    help="On this loopback address answer what the admin socket answers, to processes of root "
    "only, and change nothing: people reach it through the API server.",
)
@click.option(
    "--access-log",
    type=click.Choice([str(kind) for kind in LogFormat]),
    default=str(LogFormat.TEXT),
    show_default=True,
    help="One line per connection.",
)
@click.option("--access-log-file", metavar="FILE", help="Default: standard output.")
@click.option(
    "--log-level",
    type=click.Choice([str(level) for level in LogLevel]),
    default=str(LogLevel.INFO),
    show_default=True,
    help="Level of the node's own log.",
)
@click.option(
    "--drain-timeout",
    default="30s",
    show_default=True,
    metavar="TIME",
    help="How long open connections may go on after a stop or an upgrade.",
)
@click.option(
    "--expired-grace",
    default="10m",
    show_default=True,
    metavar="TIME",
    help="How long open connections may go on past the end of a certificate they were proved by.",
)
@click.option(
    "--otlp-endpoint",
    metavar="URL",
    default="",
    help="Send spans of connections to this OTLP/HTTP collector, such as http://collector:4318.",
)
@otlp_ca_option
@click.option(
    "--trace-sampling",
    metavar="PERCENT",
    default=DEFAULT_SAMPLING,
    show_default=True,
    help="With a collector: share of connections that become a span.",
)
@click.option(
    "--hand-over",
    is_flag=True,
    help="For upgrades: wait for an earlier agent of this node to end; at the end leave workers "
    "and listeners to the next one.",
)
@click.option(
    "--cni",
    type=bool,
    default=False,
    show_default=True,
    help="Chain the CNI plugin, so that pods start captured.",
)
@click.option("--cni-plugin", metavar="FILE", help="The plugin. Default: the one of set-up.")
@click.option(
    "--cni-bin-dir",
    default="/opt/cni/bin",
    show_default=True,
    metavar="DIR",
    help="Where the container runtime looks for plugins.",
)
@click.option(
    "--cni-conf-dir",
    default="/etc/cni/net.d",
    show_default=True,
    metavar="DIR",
    help="Where its network configuration is.",
)
@click.option(
    "--cni-timeout",
    default="30s",
    show_default=True,
    metavar="TIME",
    help="How long the start of a pod waits for its capture.",
)
@click.option(
    "--cni-exclude",
    multiple=True,
    metavar="NAMESPACE",
    help="Pods there start without the agent. May be repeated.",
)
def agent(**given: Unpack[AgentArguments]) -> None:
    """Run the node agent: capture, certificates and ztunnel workers. Needs root.

    Ends with 0 after SIGTERM; open connections may go on for the drain timeout.
    """
    checked = agent_options(given)
    _require_root("agent")
    _run_agent(checked)


@click.command()
@click.option(
    "--source",
    required=True,
    metavar="file:DIR|kubernetes[:KUBECONFIG]",
    help="Says who runs where; with `kubernetes`, also which node a token speaks for.",
)
@click.option(
    "--ca",
    "state_dir",
    required=True,
    metavar="DIR",
    help="State directory; `meshnode ca init` makes it.",
)
@click.option(
    "--listen",
    default=DEFAULT_CA_LISTEN,
    show_default=True,
    metavar="HOST:PORT",
    help="Where nodes ask for certificates; `*` is every address, IPv4 and IPv6.",
)
@click.option(
    "--health-port",
    type=click.IntRange(1, 65535),
    default=15014,
    show_default=True,
    metavar="PORT",
    help="Where /healthz and /metrics are served: on the address of --listen in a cluster, else on "
    "loopback.",
)
@click.option(
    "--agent-account",
    default=DEFAULT_AGENT_ACCOUNT,
    show_default=True,
    metavar="NAMESPACE/NAME",
    help="With --source kubernetes: the service account that agents run as.",
)
@click.option(
    "--namespace",
    envvar="POD_NAMESPACE",
    metavar="NAME",
    help="With --source kubernetes: where the Secret with the keys and the Lease are. DIR is then "
    "a working copy. Without it, the keys are those in DIR and nothing but the CA runs.",
)
@click.option(
    "--identity",
    envvar="POD_NAME",
    metavar="NAME",
    default=host_name,
    help="With --namespace: which of several replicas this is. Default: the host's name.",
)
@click.option(
    "--waypoint-image",
    envvar="MESHNODE_IMAGE",
    metavar="IMAGE",
    help="With --namespace: the image of waypoints. Without it, Gateways get none.",
)
@click.option(
    "--webhook-port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="With --namespace: serve the admission webhook.",
)
def controller(
    source: str,
    state_dir: str,
    listen: str,
    health_port: int,
    agent_account: str,
    namespace: str | None,
    identity: str,
    waypoint_image: str | None,
    webhook_port: int | None,
) -> None:
    """Run the control plane: certificates, and on Kubernetes waypoints, status and admission.

    It signs for a node only identities that run there, and for a pod only its own. An agent
    started with --ca does the same. Ends with 0 after SIGTERM.
    """

    from agent import options as parse
    from agent.cli.serve_ca import ControllerAddress, ReplicaOptions, serve_ca

    serve_ca(
        parse.parse_agent_source(source),
        Path(state_dir),
        ControllerAddress(
            listen=parse.parse_listen_on("--listen", listen), health_port=health_port
        ),
        parse.parse_service_account("--agent-account", agent_account),
        ReplicaOptions(
            namespace=namespace,
            identity=identity,
            waypoint_image=waypoint_image,
            webhook_port=webhook_port,
        ),
    )


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
@click.pass_context
def holder(context: click.Context) -> None:
    """Run the process that owns the listeners. The agent starts it by itself.

    Takes --node NAME, --cgroup PATH, --daemon, --log FILE and --grace SECONDS. It is a program of
    the standard library alone, `python -m agent.holder`, so that it stays small.
    """
    from agent.holder.__main__ import main

    try:
        sys.exit(main(context.args))
    except SystemExit as end:
        # argparse's 2 is for wrong usage, which is 1 here.
        sys.exit(Exit.NEGATIVE if end.code == 2 else end.code)


def _require_root(command: str) -> None:
    import os

    if os.geteuid() != 0:
        raise KernelError(
            f"meshnode {command}", errno.EPERM, "It needs root: run the command with sudo."
        )


def _run_agent(options: AgentOptions) -> None:
    from agent.node.main import run_agent

    run_agent(options)
