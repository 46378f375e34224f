"""The DaemonSet of agents.

One container, although four kinds of processes run in it: what must survive an upgrade of the pod
(holder and workers) leaves the container's cgroup, and the kubelet ends only what is in it. See
docs/adr/0008-one-agent-container.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from installer.parts import (
    AGENT,
    CA_PORT,
    CA_ROOT,
    CONTROLLER,
    field_of_pod,
    host_path,
    http_probe,
    image,
    labels_of,
    mount,
    namespaced,
)
from installer.values import Manifest, Values
from mesh.run_files import VIEW_PORT

CAPABILITIES: Sequence[str] = (
    "DAC_OVERRIDE",  # the root of cgroup v2 is mode 0555: nobody else makes a cgroup there
    "KILL",  # workers have another user id
    "NET_ADMIN",  # cgroup and sk_lookup hooks, marks, transparent sockets, routes in pods
    "SETGID",
    "SETPCAP",
    "SETUID",  # workers give up everything
    "SYS_ADMIN",  # bpf(2), setns(2) into pods, writable sysctls of their namespaces
    "SYS_PTRACE",  # /proc/PID/ns/net of other users' processes
    "SYS_RESOURCE",  # limits of descriptors, and of locked memory before Linux 5.11
)
"""SYS_ADMIN holds what BPF and PERFMON would give. A test runs an agent with exactly these."""

TOKEN_AUDIENCE = "meshnode-ca"
TOKEN_DIR = "/var/run/secrets/meshnode"
CA_ROOT_DIR = "/etc/meshnode/ca"
CNI_BIN = "/host/cni/bin"
CNI_CONF = "/host/cni/net.d"
STATE_DIR = "/run/meshnode"


def daemon_set(values: Values) -> Manifest:
    """One agent on every node."""
    return {
        **namespaced("apps/v1", "DaemonSet", AGENT, values),
        "spec": {
            "selector": {"matchLabels": labels_of(AGENT)},
            # The new agent stands by until the old one is gone, and takes its workers over.
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": values.value("agent.maxSurge"), "maxUnavailable": 0},
            },
            "minReadySeconds": 5,
            "template": {
                "metadata": {"labels": {**labels_of(AGENT), "meshnode.io/dataplane": "disabled"}},
                "spec": _pod(values),
            },
        },
    }


def _pod(values: Values) -> Manifest:
    return {
        "serviceAccountName": AGENT,
        "priorityClassName": values.value("agent.priorityClass"),
        # Pods' namespaces are found through the processes of the host.
        "hostPID": True,
        # It has to start where no pod network is yet: the CNI plugin waits for it.
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 45,
        "tolerations": values.value("agent.tolerations"),
        "nodeSelector": values.value("agent.nodeSelector"),
        "imagePullSecrets": values.value("image.pullSecrets"),
        "containers": [_container(values)],
        "volumes": _volumes(values),
    }


def _container(values: Values) -> Manifest:
    port = values.value("agent.metricsPort")
    return {
        "name": "agent",
        **image(values),
        "args": _arguments(values),
        "env": [
            field_of_pod("MESHNODE_NODE", "spec.nodeName"),
            field_of_pod("NODE_ADDRESS", "status.hostIP"),
            {"name": "TMPDIR", "value": "/tmp"},
        ],
        "securityContext": {
            "runAsUser": 0,
            "privileged": False,
            "allowPrivilegeEscalation": True,  # implied by SYS_ADMIN; said, not hidden
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": list(CAPABILITIES)},
            # Both forbid mount(2) and writing sysctls whatever the capabilities.
            "seccompProfile": {"type": "Unconfined"},
            "appArmorProfile": {"type": "Unconfined"},
        },
        # The port is the node's: in an upgrade the old agent answers for the new one that stands
        # by, which lets the kubelet end the old one.
        "startupProbe": http_probe("/healthz/live", port, periodSeconds=2, failureThreshold=90),
        "readinessProbe": http_probe("/healthz/ready", port, periodSeconds=5),
        "livenessProbe": http_probe("/healthz/live", port, periodSeconds=10, failureThreshold=6),
        "resources": values.value("agent.resources"),
        "volumeMounts": _mounts(),
    }


def _arguments(values: Values) -> list[object]:
    return [
        "agent",
        "--source=kubernetes",
        values.text(f"--ca-address={CONTROLLER}.{{namespace}}.svc:{CA_PORT}"),
        f"--join-token-file={TOKEN_DIR}/token",
        f"--ca-root-file={CA_ROOT_DIR}/root.pem",
        values.text("--cgroup={agent.podsCgroup}"),
        values.text("--workers={agent.workers}"),
        values.text("--metrics=[$(NODE_ADDRESS)]:{agent.metricsPort}"),
        f"--view=127.0.0.1:{VIEW_PORT}",
        values.text("--access-log={agent.accessLog}"),
        values.text("--log-level={agent.logLevel}"),
        values.text("--drain-timeout={agent.drainTimeout}"),
        "--hand-over",
        values.text("--cni={cni.enabled}"),
        f"--cni-bin-dir={CNI_BIN}",
        f"--cni-conf-dir={CNI_CONF}",
        values.text("--cni-timeout={cni.timeout}"),
        "--cni-exclude=kube-system",
        values.text("--cni-exclude={namespace}"),
    ]


def _mounts() -> list[Manifest]:
    return [
        mount("bpffs", "/sys/fs/bpf"),
        mount("cgroup", "/sys/fs/cgroup"),
        mount("run", STATE_DIR),
        mount("cni-bin", CNI_BIN),
        mount("cni-conf", CNI_CONF),
        # Namespaces that the runtime makes while we run have to appear here.
        {**mount("netns", "/var/run/netns"), "mountPropagation": "HostToContainer"},
        mount("ca-root", CA_ROOT_DIR, read_only=True),
        mount("token", TOKEN_DIR, read_only=True),
        mount("tmp", "/tmp"),
    ]


def _volumes(values: Values) -> list[Manifest]:
    token = {"audience": TOKEN_AUDIENCE, "expirationSeconds": 3600, "path": "token"}
    return [
        # Must be mounted on the node, so that pins outlive the pod; systemd does.
        host_path("bpffs", "/sys/fs/bpf", "Directory"),
        host_path("cgroup", "/sys/fs/cgroup", "Directory"),
        host_path("run", STATE_DIR, "DirectoryOrCreate"),
        host_path("cni-bin", values.value("cni.binDir"), "DirectoryOrCreate"),
        host_path("cni-conf", values.value("cni.confDir"), "DirectoryOrCreate"),
        host_path("netns", "/var/run/netns", "DirectoryOrCreate"),
        {"name": "ca-root", "configMap": {"name": CA_ROOT}},
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
    ]
