"""A small real world for the capture tests: pods in namespaces, a cgroup each, captured sockets.

Topology: every pod has eth0 on a veth to the namespace `<prefix>-gw`, which routes between them.
Pod processes are children that entered the namespace and the pods' cgroup before making sockets.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from agent.capture import cgroup, links
from agent.capture.desired import AgentCgroup, Basis, number_snapshot
from agent.capture.enrolment import Enrolment, PodCapture
from agent.capture.numbering import Numbering
from agent.capture.pins import PinnedMaps, open_maps
from agent.capture.reconcile import ReconcileSummary, reconcile
from agent.capture.uninstall import uninstall
from agent.netns import call_in_netns, netns_cookie, open_netns
from agent.paths import NodePaths
from bpf.layout import Target
from mesh.model.address import IPAddress
from mesh.model.kernel import KernelPolicy, KernelVerdict, VerdictKey, VerdictValue
from mesh.model.snapshot import MeshSettings, MeshSnapshot
from mesh.model.workload import (
    Endpoint,
    Exclusions,
    Service,
    ServiceKey,
    ServicePort,
    Workload,
    WorkloadUid,
)


def sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@dataclass
class PodNs:
    """A namespace with one address of each family."""

    name: str
    number: int
    uid: WorkloadUid
    fd: int
    cookie: int
    listeners: dict[IPAddress, socket.socket] = field(default_factory=dict)

    @property
    def v4(self) -> IPv4Address:
        return IPv4Address(f"10.98.{self.number}.2")

    @property
    def v6(self) -> IPv6Address:
        return IPv6Address(f"fd98:{self.number}::2")

    def tcp(self, family: int = socket.AF_INET) -> socket.socket:
        """A TCP socket inside, made by this process (which is not in the pods' cgroup)."""
        return call_in_netns(self.fd, lambda: socket.socket(family, socket.SOCK_STREAM))

    def listen(self, address: str, port: int = 0) -> socket.socket:
        """A listener inside."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = self.tcp(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(64)
        listener.settimeout(30)
        return listener


@contextlib.contextmanager
def namespaces(prefix: str, count: int) -> Iterator[list[PodNs]]:
    """`count` pods that reach each other through a routing namespace."""
    gateway = f"{prefix}-gw"
    made: list[str] = []
    pods: list[PodNs] = []
    try:
        sh("ip", "netns", "add", gateway)
        made.append(gateway)
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            sh("nsenter", f"--net=/run/netns/{gateway}", "sysctl", "-qw", f"{name}=1")
        for number in range(1, count + 1):
            name = f"{prefix}-p{number}"
            sh("ip", "netns", "add", name)
            made.append(name)
            pods.append(_wire(gateway, name, number))
        yield pods
    finally:
        for pod in pods:
            for listener in pod.listeners.values():
                listener.close()
            os.close(pod.fd)
        for name in made:
            sh("ip", "netns", "del", name)


def _wire(gateway: str, name: str, number: int) -> PodNs:
    sh("ip", "-n", name, "link", "add", "eth0", "type", "veth",
       "peer", "name", f"v{number}", "netns", gateway)  # fmt: skip
    for ns, link, v4, v6 in (
        (gateway, f"v{number}", f"10.98.{number}.1/24", f"fd98:{number}::1/64"),
        (name, "eth0", f"10.98.{number}.2/24", f"fd98:{number}::2/64"),
    ):
        sh("ip", "-n", ns, "addr", "add", v4, "dev", link)
        sh("ip", "-n", ns, "addr", "add", v6, "dev", link, "nodad")
        sh("ip", "-n", ns, "link", "set", link, "up")
    sh("ip", "-n", name, "link", "set", "lo", "up")
    sh("ip", "-n", name, "route", "add", "default", "via", f"10.98.{number}.1")
    sh("ip", "-n", name, "-6", "route", "add", "default", "via", f"fd98:{number}::1")
    fd = open_netns(f"/run/netns/{name}")
    uid = WorkloadUid(f"pod/test/{name}")
    return PodNs(name=name, number=number, uid=uid, fd=fd, cookie=netns_cookie(fd))


def workload(pod: PodNs, *, enrolled: bool = True, node: str = "n1", **more: object) -> Workload:
    """The mesh's view of a pod."""
    exclusions = more.get("exclusions", Exclusions())
    assert isinstance(exclusions, Exclusions)
    return Workload(
        uid=pod.uid,
        name=pod.name,
        namespace="test",
        service_account="default",
        trust_domain="cluster.local",
        node=node,
        addresses=(pod.v4, pod.v6),
        enrolled=enrolled,
        exclusions=exclusions,
    )


def service(vips: list[str], port: int, endpoints: list[tuple[IPAddress, int]]) -> Service:
    """A service with one port."""
    return Service(
        key=ServiceKey("test/svc"),
        name="svc",
        namespace="test",
        hostname="svc.test.svc.cluster.local",
        addresses=tuple(ip_address(vip) for vip in vips),
        ports=(ServicePort(port=port),),
        endpoints=tuple(
            Endpoint(address=ip, workload=None, ports={port: target}) for ip, target in endpoints
        ),
    )


def verdicts(*rows: tuple[PodNs, PodNs, int, KernelVerdict]) -> KernelPolicy:
    """Same-node verdicts; a pod's class is its number."""
    pods = {pod.uid: pod.number for row in rows for pod in row[:2]}
    return KernelPolicy(
        src_class=pods,
        dst_class=pods,
        verdicts={
            VerdictKey(src.number, dst.number, port): VerdictValue(verdict, 7)
            for src, dst, port, verdict in rows
        },
        reasons=(),
    )


NO_POLICY = KernelPolicy(src_class={}, dst_class={}, verdicts={}, reasons=())


@contextlib.contextmanager
def inside(path: Path) -> Iterator[None]:
    """Make sockets as a member of a cgroup, then go back where this process was."""
    lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    home = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
    cgroup.join_cgroup(path)
    try:
        yield
    finally:
        cgroup.join_cgroup(cgroup.cgroup_mount() / home)


@dataclass
class Node:
    """A loaded and attached node."""

    paths: NodePaths
    maps: PinnedMaps
    agent: AgentCgroup
    pods_cgroup: Path
    enrolment: Enrolment
    numbering: Numbering = field(default_factory=Numbering)
    local: dict[WorkloadUid, int] = field(default_factory=dict)

    def apply(
        self,
        *workloads: Workload,
        services: tuple[Service, ...] = (),
        policy: KernelPolicy = NO_POLICY,
        settings: MeshSettings | None = None,
    ) -> ReconcileSummary:
        """Reconcile the maps with a mesh of these objects."""
        snapshot = MeshSnapshot(
            revision=1,
            settings=settings or MeshSettings(),
            workloads={w.uid: w for w in workloads},
            services={s.key: s for s in services},
        )
        self.numbering = number_snapshot(snapshot, self.numbering)
        self.state = Basis(
            snapshot=snapshot,
            local=self.local,
            policy=policy,
            numbering=self.numbering,
            agent=self.agent,
        ).state()
        return reconcile(self.maps, self.state)

    def enrol(self, *pods: PodNs) -> None:
        """Capture pods with their own plaintext listeners."""
        for pod in pods:
            if not pod.listeners:
                pod.listeners = {
                    pod.v4: pod.listen("127.0.0.1", 15006),
                    pod.v6: pod.listen("::1", 15006),
                }
            self.enrolment.enrol(
                PodCapture(
                    netns_cookie=pod.cookie,
                    netns_fd=pod.fd,
                    plaintext=pod.listeners,
                    entry=self.state.pods[pod.cookie],
                )
            )


@contextlib.contextmanager
def node(name: str) -> Iterator[Node]:
    """Load and attach to a scratch cgroup; everything is gone afterwards."""
    paths = NodePaths(name)
    pods_cgroup = cgroup.cgroup_mount() / f"{name}-pods"
    try:
        sh(sys.executable, "-m", "agent.capture.loader", "--node", name)
        agent = cgroup.make_agent_cgroup(paths)
        pods_cgroup.mkdir()
        links.attach_cgroup(paths, Target.PODS_CGROUP, pods_cgroup)
        links.attach_cgroup(paths, Target.AGENT_CGROUP, cgroup.agent_cgroup_path(paths))
        with open_maps(paths) as maps:
            yield Node(
                paths=paths,
                maps=maps,
                agent=agent,
                pods_cgroup=pods_cgroup,
                enrolment=Enrolment(paths, maps),
            )
    finally:
        uninstall(name)
        if pods_cgroup.is_dir():
            pods_cgroup.rmdir()


_CHILD = """
import os, sys, socket, struct, errno, time
with open({cgroup!r} + "/cgroup.procs", "w") as f: f.write("0")
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open({netns!r}, os.O_RDONLY)
assert libc.setns(fd, 0x40000000) == 0
def dial(address, port, family=None, timeout=25):
    family = family or (socket.AF_INET6 if ":" in address else socket.AF_INET)
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(timeout)
    s.connect((address, port))
    return s
def errno_of(address, port, family=None, timeout=25):
    try:
        s = dial(address, port, family, timeout)
    except TimeoutError:
        return "timeout"
    except OSError as e:
        return errno.errorcode[e.errno]
    s.close()
    return "connected"
"""


@contextlib.contextmanager
def process(pod: PodNs, cgroup_path: Path, code: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the pod that runs `code`; killed at the end."""
    head = _CHILD.format(cgroup=str(cgroup_path), netns=f"/run/netns/{pod.name}")
    child = subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def run_in(pod: PodNs, cgroup_path: Path, code: str) -> str:
    """Run `code` as a process of the pod to its end; what it printed."""
    head = _CHILD.format(cgroup=str(cgroup_path), netns=f"/run/netns/{pod.name}")
    done = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def eventually(condition: Callable[[], bool], deadline_s: float = 30.0) -> None:
    """Wait for the kernel to have finished something that no call announces."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "condition did not come true"
        time.sleep(0.005)
