"""The command line of `meshnode agent` as checked options."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from agent import options as parse
from agent.admin.view import LogLevel
from mesh.telemetry.access_log import LogFormat
from mesh.telemetry.trace_settings import parse_endpoint, parse_sampling


class AgentArguments(TypedDict):
    """What click hands over: texts, under the names of the options."""

    node: str
    source: str
    host_proc: str
    cgroup: str | None
    ca: str | None
    ca_listen: str | None
    ca_address: str | None
    join_token_file: str | None
    ca_root_file: str | None
    trust_domain: str | None
    workers: int | None
    metrics: str
    view: str | None
    access_log: str
    access_log_file: str | None
    log_level: str
    drain_timeout: str
    expired_grace: str
    otlp_endpoint: str
    otlp_ca: Path | None
    trace_sampling: str
    hand_over: bool
    cni: bool
    cni_plugin: str | None
    cni_bin_dir: str
    cni_conf_dir: str
    cni_timeout: str
    cni_exclude: tuple[str, ...]


def agent_options(given: AgentArguments) -> parse.AgentOptions:
    """Check everything. Raises `ConfigError`."""
    cgroup, domain, log_file = given["cgroup"], given["trust_domain"], given["access_log_file"]
    view, endpoint = given["view"], given["otlp_endpoint"]
    return parse.AgentOptions(
        node=given["node"],
        source=parse.parse_agent_source(given["source"], given["host_proc"]),
        ca=parse.parse_ca(
            given["ca"],
            given["ca_listen"],
            given["ca_address"],
            given["join_token_file"],
            given["ca_root_file"],
        ),
        cgroup=parse.parse_cgroup(cgroup) if cgroup else None,
        trust_domain=parse.parse_trust_domain(domain) if domain else None,
        workers=parse.parse_workers(given["workers"]),
        metrics=parse.parse_listen("--metrics", given["metrics"]),
        view=parse.parse_view(view) if view else None,
        access_log=LogFormat(given["access_log"]),
        access_log_file=Path(log_file) if log_file else None,
        log_level=LogLevel(given["log_level"]),
        drain_timeout_s=parse.parse_duration(given["drain_timeout"]),
        expired_grace_s=parse.parse_duration(given["expired_grace"]),
        otlp_endpoint=parse_endpoint(endpoint) if endpoint else "",
        otlp_ca=given["otlp_ca"],
        trace_sampling=parse_sampling(given["trace_sampling"]) or 0.0,
        hand_over=given["hand_over"],
        cni=_cni_options(given) if given["cni"] else None,
    )


def _cni_options(given: AgentArguments) -> parse.CniOptions:
    plugin = given["cni_plugin"]
    return parse.CniOptions(
        bin_dir=Path(given["cni_bin_dir"]),
        conf_dir=Path(given["cni_conf_dir"]),
        timeout_s=parse.parse_duration(given["cni_timeout"]),
        excluded=given["cni_exclude"],
        plugin=Path(plugin) if plugin else None,
    )
