"""What the tests ask of a real cluster: objects, tokens, and who was refused what."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from tests.support.kube_real import RealServer
from tests.unit.agent.cli.invoke import meshnode

SYSTEM = "meshnode-system"
LIMIT_S = 90.0
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}


class _User(msgspec.Struct):
    username: str = ""


class _Subject(msgspec.Struct, rename="camel"):
    resource: str = ""
    subresource: str = ""
    api_group: str = ""
    namespace: str = ""
    name: str = ""


class _Status(msgspec.Struct):
    code: int = 0


class Audited(msgspec.Struct, rename="camel"):
    """A request that the API server has answered."""

    verb: str = ""
    user: _User = msgspec.field(default_factory=_User)
    object_ref: _Subject = msgspec.field(default_factory=_Subject)
    response_status: _Status = msgspec.field(default_factory=_Status)

    @property
    def permission(self) -> tuple[str, str, str]:
        """Group, resource and verb: what a rule would have to say."""
        asked = self.object_ref
        plural = f"{asked.resource}/{asked.subresource}" if asked.subresource else asked.resource
        return asked.api_group, plural, self.verb


class Cluster:
    """A cluster without nodes, in which meshnode's manifests are.

    Args:
        gateway_api: directory with the Gateway API's definitions.
    """

    def __init__(self, server: RealServer, gateway_api: Path) -> None:
        self.server = server
        self.file = str(server.kubeconfig)
        self._gateway_api = gateway_api

    def prepare(self) -> None:
        """Install the Gateway API and meshnode, and a node that nobody is."""
        # Too large for an annotation, so they are applied by the server.
        self.kubectl("apply", "--server-side", "-f", str(self._gateway_api))
        for definition in ("httproutes", "gatewayclasses", "tlsroutes"):
            self._established(f"{definition}.gateway.networking.k8s.io")
        self.apply(NODE)
        said = self.kubectl("apply", "-f", "-", stdin=self.manifests())
        assert "Warning" not in said.stderr, said.stderr
        self._established("meshconfigs.meshnode.io")

    def manifests(self, *sets: str) -> str:
        """What `meshnode install` prints for a cluster with the Gateway API."""
        options = [word for one in ("gatewayClass.enabled=true", *sets) for word in ("--set", one)]
        made = meshnode("install", *options)
        assert made.exit_code == 0, made.output
        return made.stdout

    def _established(self, name: str) -> None:
        self.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=60s")

    def kubectl(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run kubectl, which has to succeed."""
        done = self.server.kubectl(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr[-4000:]}"
        return done

    def apply(self, *manifests: Mapping[str, object]) -> None:
        """Create or change objects."""
        items = {"apiVersion": "v1", "kind": "List", "items": [dict(one) for one in manifests]}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(items))

    def refusal(self, manifest: Mapping[str, object]) -> str:
        """What the server says to an object that it must not take."""
        done = self.server.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
        assert done.returncode != 0, f"it was taken: {manifest}"
        return done.stderr

    def get(self, *arguments: str) -> Mapping[str, object]:
        """An object, or a list of them."""
        made = json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)
        assert isinstance(made, dict)
        return made

    def namespace(self, name: str) -> str:
        """Make a namespace, and wait for the account that pods run as."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        eventually(
            lambda: self.server.kubectl("-n", name, "get", "sa", "default").returncode == 0,
            f"the account default of {name}",
        )
        return name

    def pod(self, namespace: str, name: str, account: str, node: str = "n1") -> None:
        """Make a pod on a node; nothing runs."""
        spec = {
            "nodeName": node,
            "serviceAccountName": account,
            "containers": [{"name": "c", "image": "none:1"}],
        }
        metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def runs(self, namespace: str, pod: str, address: str) -> None:
        """Say of a pod what its kubelet would say."""
        status = json.dumps({"status": {"phase": "Running", "podIP": address}})
        options = ("--subresource=status", "--type=merge", "-p", status)
        self.kubectl("-n", namespace, "patch", "pod", pod, *options)

    def end_pods(self, namespace: str) -> None:
        """Take pods away at once: no kubelet would ever say that they have ended."""
        self.kubectl("-n", namespace, "delete", "pods", "--all", "--force", "--grace-period=0")

    def token(self, namespace: str, account: str, pod: str, *audiences: str) -> str:
        """A token bound to a pod, as the kubelet projects it."""
        options = [f"--audience={one}" for one in audiences]
        return self.kubectl(
            "-n", namespace, "create", "token", account, "--bound-object-kind=Pod",
            f"--bound-object-name={pod}", *options,
        ).stdout.strip()  # fmt: skip

    def audited(self, user: str) -> list[Audited]:
        """Every answered request of somebody, oldest first."""
        lines = self.server.audit.read_bytes().splitlines()
        found = [msgspec.json.decode(line, type=Audited) for line in lines if line.endswith(b"}")]
        return [one for one in found if one.user.username == user]


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {LIMIT_S} s"
        time.sleep(0.2)
