"""Is the kernel's state sound in itself? Dangling references, dead links, missing pieces."""

from __future__ import annotations

from collections.abc import Iterator

from agent.capture import inspect, pins
from agent.capture import maps as codec
from agent.capture.links import LOOKUP_PREFIX
from agent.capture.views import EnrolledView, Finding, LinkView
from agent.paths import NodePaths
from bpf.layout import MAPS, PROGRAMS, ConfigFlag, Target


def fsck(node: str) -> list[Finding]:
    """All findings, errors first; empty means sound. Raises `KernelError` if nothing is loaded."""
    paths = NodePaths(node)
    found = [*_check_maps(node), *_check_schemas(paths)]
    if not any(finding.severity == "error" for finding in found):
        links = inspect.links(node)
        pods = inspect.enrolled(node)
        found += [
            *_check_links(links, pods),
            *_check_pods(links, pods),
            *_check_config(node, pods),
            *_check_services(node),
            *_check_exclusions(paths, pods),
        ]
    return sorted(found, key=lambda finding: (finding.severity != "error", finding.where))


def _error(where: str, message: str) -> Finding:
    return Finding(severity="error", where=where, message=message)


def _warning(where: str, message: str) -> Finding:
    return Finding(severity="warning", where=where, message=message)


def _check_maps(node: str) -> Iterator[Finding]:
    views = {view.name: view for view in inspect.maps(node)}
    for spec in MAPS:
        view = views.get(spec.name)
        if view is None:
            yield _error(spec.name, "is not pinned: run the agent, or `meshnode uninstall`")
        elif view.problem:
            yield _error(spec.name, f"{view.problem}. {pins.UNINSTALL_HINT}")
        elif (view.full_percent or 0) > 80 and view.max_entries > 1 and spec.name != "mn_reason":
            yield _warning(spec.name, f"is {view.full_percent:.0f} % full")


def _check_schemas(paths: NodePaths) -> Iterator[Finding]:
    if paths.pin_root.is_dir():
        for entry in sorted(paths.pin_root.iterdir()):
            if entry != paths.pin_dir:
                yield _error(str(entry), f"pins of another schema. {pins.UNINSTALL_HINT}")


def _check_links(links: list[LinkView], pods: list[EnrolledView]) -> Iterator[Finding]:
    attached = {link.name for link in links}
    for spec in PROGRAMS:
        if spec.target is not Target.POD_NETNS and spec.name not in attached:
            yield _error(spec.name, "is not attached: traffic is not captured; restart the agent")
    cookies = {pod.netns_cookie for pod in pods}
    for link in links:
        if link.defunct:
            yield _warning(link.name, "its namespace or cgroup is gone; the agent will unpin it")
        elif link.name.startswith(LOOKUP_PREFIX):
            cookie = int(link.name.removeprefix(LOOKUP_PREFIX))
            if cookie not in cookies:
                yield _warning(link.name, "steers inbound traffic of a pod that is not enrolled")


def _check_pods(links: list[LinkView], pods: list[EnrolledView]) -> Iterator[Finding]:
    steered = {link.name for link in links if not link.defunct}
    for pod in pods:
        where = f"netns cookie {pod.netns_cookie}"
        if f"{LOOKUP_PREFIX}{pod.netns_cookie}" not in steered:
            yield _error(where, "is captured outbound but not inbound, or its namespace is gone")
        for address in sorted(set(pod.addresses) - set(pod.listeners)):
            yield _error(where, f"{address} has no listener: inbound connections are dropped")


def _check_config(node: str, pods: list[EnrolledView]) -> Iterator[Finding]:
    settings = inspect.config(node)
    if settings is None:
        if pods:
            yield _error("mn_config", "is empty: enrolled pods are refused every connection")
        return
    if settings.flags & ConfigFlag.INCOMPLETE:
        yield _error("mn_config", "a map is full: unknown destinations go through ztunnel")


def _check_services(node: str) -> Iterator[Finding]:
    for service in inspect.service(node):
        for backend in service.backends:
            if backend.missing:
                yield _error(
                    f"{service.vip} port {service.port}", f"backend {backend.index} <missing>"
                )


def _check_exclusions(paths: NodePaths, pods: list[EnrolledView]) -> Iterator[Finding]:
    cookies = {pod.netns_cookie for pod in pods}
    with (
        pins.open_map(paths, "mn_exclude") as ports,
        pins.open_map(paths, "mn_exclude_net") as nets,
    ):
        stale = {codec.decode_exclusion(key).netns_cookie for key in ports.keys()}  # noqa: SIM118
        stale |= {codec.decode_net(key).netns_cookie for key in nets.keys()}  # noqa: SIM118
    for cookie in sorted(stale - cookies):
        yield _warning(f"netns cookie {cookie}", "has exclusions but is not enrolled")
