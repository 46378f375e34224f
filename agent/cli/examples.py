"""Command lines as people type them, shown below each command's help and in its reference.

A test parses each of them. `#` begins a remark; what stands behind `|` or `>` is the shell's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

EXAMPLES: Mapping[str, Sequence[str]] = {
    "status": ("meshnode status", "meshnode status --node n1 --watch"),
    "check": (
        "meshnode check",
        "meshnode check -o short",
        "meshnode check --cluster",
    ),
    "stat": (
        "meshnode stat",
        "meshnode stat service shop/api --since 5m",
        "meshnode stat namespace --window 24h -o json",
    ),
    "edges": ("meshnode edges -n shop", "meshnode edges --since 15m -o json"),
    "top": ("meshnode top -n shop --rows 10", "meshnode top --once"),
    "tap": (
        "meshnode tap shop/api",
        "meshnode tap shop/ --denied",
        "meshnode tap --requests -o json -c 10",
    ),
    "dashboard": ("meshnode dashboard", "meshnode dashboard --listen 127.0.0.1:8090 --open"),
    "authz check": (
        "meshnode authz check shop/web shop/api 80",
        "meshnode authz check shop/web shop/api 80 --method POST --path /items/1",
        "meshnode authz check 192.0.2.7 shop/web 8080 --source file:./manifests",
    ),
    "describe": (
        "meshnode describe pod shop/web-1",
        "meshnode describe service shop/api --watch",
        "meshnode describe namespace shop",
    ),
    "routes": (
        "meshnode routes shop/api --path /v2 --header 'x-canary: yes'",
        "meshnode routes shop/api --port 8080 --source file:./manifests",
    ),
    "analyze": (
        "meshnode analyze",
        "meshnode analyze ./manifests --threshold warning",
        "meshnode analyze ./manifests --source kubernetes:$HOME/.kube/config",
    ),
    "enroll": (
        "meshnode enroll shop --dry-run",
        "meshnode enroll shop --waypoint gate",
        "meshnode enroll shop/web-1",
    ),
    "unenroll": ("meshnode unenroll shop --dry-run", "meshnode unenroll shop/web-1"),
    "connections": ("meshnode connections", "meshnode connections --node n1 --watch"),
    "certs": ("meshnode certs", "meshnode certs --node n1 -o json"),
    "config dump": (
        "meshnode config dump",
        "meshnode config dump n1",
        "meshnode config dump shop/gate  # of a waypoint",
    ),
    "config diff": (
        "meshnode config diff n1 n2",
        "meshnode config diff n1 --source file:./manifests",
    ),
    "bpf maps": ("meshnode bpf maps",),
    "bpf progs": ("meshnode bpf progs",),
    "bpf links": ("meshnode bpf links", "meshnode bpf links --node n1 --context staging"),
    "bpf enrolled": ("meshnode bpf enrolled", "meshnode bpf enrolled -n -o json"),
    "bpf origdst": ("meshnode bpf origdst",),
    "bpf identity": ("meshnode bpf identity",),
    "bpf policy": ("meshnode bpf policy",),
    "bpf service": ("meshnode bpf service",),
    "bpf stats": ("meshnode bpf stats",),
    "bpf flows": ("meshnode bpf flows",),
    "bpf drops": ("meshnode bpf drops", "meshnode bpf drops --all"),
    "bpf diff": ("meshnode bpf diff --node n1",),
    "bpf fsck": ("meshnode bpf fsck",),
    "bpf monitor": ("meshnode bpf monitor --denied", "meshnode bpf monitor -c 10 -o json"),
    "log": ("meshnode log --node n1", "meshnode log --node n1 --level debug"),
    "bug-report": ("meshnode bug-report", "meshnode bug-report --node n1 -f report.tar.gz"),
    "completion": (
        'eval "$(meshnode completion bash)"  # in ~/.bashrc',
        'eval "$(meshnode completion zsh)"   # in ~/.zshrc',
        "meshnode completion fish > ~/.config/fish/completions/meshnode.fish",
    ),
    "token create": ("meshnode token create n2 --ca /var/lib/meshnode/ca",),
    "token list": ("meshnode token list --ca /var/lib/meshnode/ca",),
    "token revoke": ("meshnode token revoke 3f9a1c --ca /var/lib/meshnode/ca",),
    "ca init": ("meshnode ca init --ca /var/lib/meshnode/ca --trust-domain corp.example",),
    "ca roots": (
        "meshnode ca roots --ca /var/lib/meshnode/ca",
        "meshnode ca roots --cluster meshnode-system",
    ),
    "ca rotate-root": ("meshnode ca rotate-root --cluster meshnode-system",),
    "ca activate-root": ("meshnode ca activate-root --cluster meshnode-system",),
    "install": (
        "meshnode install --set image.repository=REGISTRY/meshnode | kubectl apply -f -",
        "meshnode install --values values.yaml > meshnode.yaml",
    ),
    "upgrade": (
        "meshnode upgrade --dry-run --set image.tag=NEW",
        "meshnode upgrade --set image.tag=NEW | kubectl apply -f -",
    ),
    "uninstall": ("meshnode uninstall --node n1", "meshnode uninstall --cluster --yes"),
    "agent": (
        "meshnode agent --source file:/etc/mesh --ca /var/lib/meshnode/ca",
        "meshnode agent --source file:/etc/mesh --ca-address 192.0.2.1:15012 "
        "--join-token-file n2.token",
    ),
    "controller": (
        "meshnode ca init --ca /var/lib/meshnode/ca",
        "meshnode controller --source file:/etc/mesh --ca /var/lib/meshnode/ca",
    ),
    "waypoint": (
        "meshnode waypoint --name shop/gate --source file:/etc/mesh --ca /var/lib/meshnode/ca",
    ),
    "waypoint apply": (
        "meshnode waypoint apply gate -n shop --enroll-namespace --wait",
        "meshnode waypoint apply gate -n shop --replicas 3",
    ),
    "waypoint delete": ("meshnode waypoint delete gate -n shop",),
    "waypoint list": ("meshnode waypoint list", "meshnode waypoint list -n shop --watch"),
    "waypoint status": ("meshnode waypoint status gate -n shop",),
    "holder": ("meshnode holder --node n1 --daemon --log /run/meshnode/n1/holder.log",),
}
"""By the words of the command."""


def epilog_of(words: str) -> str | None:
    """What stands below the help of a command; None where there is nothing."""
    lines = EXAMPLES.get(words)
    if lines is None:
        return None
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
