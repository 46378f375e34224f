"""`meshnode waypoint`: the long-running L7 proxy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from agent.cli.output.shared import host_name, otlp_ca_option
from mesh.telemetry.request_log import ERRORS_PER_S, LogMode, parse_request_log
from mesh.telemetry.trace_settings import DEFAULT_SAMPLING, parse_endpoint, parse_sampling

if TYPE_CHECKING:
    from waypoint.options import CaAddress, CaDirectory, ClusterSource, WaypointOptions

DEFAULT_LISTEN = "0.0.0.0:15008"
DEFAULT_ADMIN = "127.0.0.1:15021"


class Given(TypedDict):
    """The options as they were written."""

    name: str
    source: str
    service_account: str | None
    node: str
    ca: str | None
    ca_address: str | None
    join_token_file: str | None
    ca_root_file: str | None
    listen: str
    admin: str
    view: str | None
    workers: int | None
    access_log: str
    access_log_sample: str | None
    access_log_rate: str | None
    otlp_endpoint: str
    otlp_ca: Path | None
    trace_sampling: str | None
    drain_timeout: str
    expired_grace: str


@click.command()
@click.option("--name", required=True, metavar="NS/NAME", help="Namespace and name of its Gateway.")
@click.option(
    "--source",
    required=True,
    metavar="file:DIR|kubernetes[:KUBECONFIG]",
    help="Where the mesh's objects are.",
)
@click.option(
    "--service-account",
    metavar="NAME",
    help="Service account of its pods. Default: the Gateway's name.",
)
@click.option(
    "--node",
    envvar="MESHNODE_NODE",
    metavar="NAME",
    default=host_name,
    help="Node it runs on. Default: the host's name.",
)
@click.option("--ca", metavar="DIR", help="Sign with the certificate authority in DIR.")
@click.option("--ca-address", metavar="HOST:PORT", help="Get certificates from this agent.")
@click.option("--join-token-file", metavar="FILE", help="With --ca-address: proves the node.")
@click.option(
    "--ca-root-file",
    metavar="FILE",
    help="With --ca-address: the root of its server, where the token is a service account's.",
)
@click.option(
    "--listen", default=DEFAULT_LISTEN, show_default=True, metavar="HOST:PORT", help="HBONE port."
)
@click.option(
    "--admin",
    default=DEFAULT_ADMIN,
    show_default=True,
    metavar="HOST:PORT",
    help="Where /healthz and /metrics are served; on loopback also what is not for everybody: "
    "/config_dump, /clusters, /problems.",
)
@click.option(
    "--view",
    metavar="HOST:PORT",
    help="Answer the same on this loopback address too: people reach it through the API server.",
)
@click.option("--workers", type=int, metavar="N", help="Worker processes. Default: one per core.")
@click.option(
    "--access-log",
    type=click.Choice([str(mode) for mode in LogMode]),
    default=str(LogMode.ERRORS),
    show_default=True,
    help="One line per request, or only per request that failed or was refused.",
)
@click.option(
    "--access-log-sample",
    metavar="PERCENT",
    help="With `text` and `json`: share of the requests that did not fail. Default: 100.",
)
@click.option(
    "--access-log-rate",
    metavar="N",
    help="Lines per second of each worker, 0 for no limit; what is left out is counted. Default: "
    f"{ERRORS_PER_S:g} where only failures are logged, else no limit.",
)
@click.option(
    "--otlp-endpoint",
    metavar="URL",
    default="",
    help="Send spans to this OTLP collector: http://collector:4318, or grpc://collector:4317.",
)
@otlp_ca_option
@click.option(
    "--trace-sampling",
    metavar="PERCENT",
    help="Share of new traces that are sampled; `none` begins no traces. Default: "
    f"{DEFAULT_SAMPLING} with a collector, else none. A caller's own decision is kept.",
)
@click.option(
    "--drain-timeout",
    default="30s",
    show_default=True,
    metavar="TIME",
    help="How long open requests may go on after a stop.",
)
@click.option(
    "--expired-grace",
    default="10m",
    show_default=True,
    metavar="TIME",
    help="How long open requests may go on past the end of a certificate they were proved by.",
)
def waypoint(**given: Unpack[Given]) -> None:
    """Run a waypoint: routing, resilience and L7 policy for services that name it.

    Needs no privilege; started as root, its workers give theirs up. Ends with 0 after SIGTERM.
    """
    from waypoint.main import run_waypoint

    run_waypoint(_options(given))


def _options(given: Given) -> WaypointOptions:
    from agent import options as parse
    from waypoint.options import WaypointOptions, parse_name

    name = parse_name(given["name"])
    endpoint = given["otlp_endpoint"]
    sampling = given["trace_sampling"] or (DEFAULT_SAMPLING if endpoint else "none")
    return WaypointOptions(
        name=name,
        service_account=given["service_account"] or name.partition("/")[2],
        node=given["node"],
        source=_source(given["source"]),
        ca=_certificates(given),
        listen=parse.parse_listen("--listen", given["listen"]),
        admin=parse.parse_listen("--admin", given["admin"]),
        view=parse.parse_view(given["view"]) if given["view"] else None,
        workers=parse.parse_workers(given["workers"]),
        access_log=parse_request_log(
            given["access_log"], given["access_log_sample"], given["access_log_rate"]
        ),
        drain_timeout_s=parse.parse_duration(given["drain_timeout"]),
        expired_grace_s=parse.parse_duration(given["expired_grace"]),
        otlp_endpoint=parse_endpoint(endpoint) if endpoint else "",
        otlp_ca=given["otlp_ca"],
        trace_sampling=parse_sampling(sampling),
    )


def _certificates(given: Given) -> CaAddress | CaDirectory:
    from agent.options import CaServe, parse_ca
    from waypoint.options import CaAddress, CaDirectory

    asked = (given["ca_address"], given["join_token_file"], given["ca_root_file"])
    parsed = parse_ca(given["ca"], None, *asked)
    if isinstance(parsed, CaServe):
        return CaDirectory(state_dir=parsed.state_dir)
    return CaAddress(
        host=parsed.host,
        port=parsed.port,
        token_file=parsed.token_file,
        root_file=parsed.root_file,
    )


def _source(text: str) -> Path | ClusterSource:
    from agent.options import KubernetesOption, parse_agent_source
    from waypoint.options import ClusterSource

    parsed = parse_agent_source(text)
    if isinstance(parsed, KubernetesOption):
        return ClusterSource(kubeconfig=parsed.kubeconfig)
    return parsed.directory
