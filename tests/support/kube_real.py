"""A real kube-apiserver with etcd, from the directory that KUBEBUILDER_ASSETS names (envtest).

`make cluster-binaries` builds such a directory. Where a controller manager is in it, it can run
beside them: it collects garbage, ends namespaces and counts the nodes of DaemonSets.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

from mesh.sources.kubernetes.access import ApiAccess
from tests.support.kube_api import bearer
from tests.support.processes import free_port

READY_S = 120.0
TOKEN = "contract-token"
_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


def assets() -> Path | None:
    """Where the binaries are; None where there are none."""
    named = os.environ.get("KUBEBUILDER_ASSETS", "")
    path = Path(named).absolute()
    has_both = all((path / name).is_file() for name in ("etcd", "kube-apiserver"))
    return path if named and has_both else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RealServer:
    """An API server under way.

    Attributes:
        kubeconfig: of somebody who may do everything.
        audit: what was asked of it, a JSON object per line.
    """

    url: str
    kubeconfig: Path
    audit: Path
    binaries: Path

    def kubectl(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator; the caller judges how it ended."""
        own = self.binaries / "kubectl"
        program = str(own) if own.is_file() else "kubectl"
        argv = [program, f"--kubeconfig={self.kubeconfig}", *arguments]
        return subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=120, check=False
        )

    def access(self, token: str = TOKEN) -> ApiAccess:
        """For a client of the controller's or the agent's kind."""
        tls = ssl.create_default_context()
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
        return ApiAccess(server=self.url, authorization=bearer(token), tls=tls)

    def kubeconfig_of(self, token: str) -> Path:
        """A kubeconfig of whoever has that token."""
        path = self.kubeconfig.with_name(f"kubeconfig-{abs(hash(token))}")
        _write_kubeconfig(path, self.url, token)
        return path


@contextmanager
def real_server(
    binaries: Path, directory: Path, *, has_managers: bool = False
) -> Iterator[RealServer]:
    """An API server and its etcd, and the controller manager if wished."""
    processes: list[subprocess.Popen[bytes]] = []
    with (directory / "log").open("wb") as log:

        def start(argv: Sequence[str]) -> None:
            processes.append(subprocess.Popen(argv, stdout=log, stderr=log))

        try:
            yield _start(binaries, directory, start, processes, has_managers=has_managers)
        finally:
            # Nothing of theirs is kept; asked politely, an API server waits for its etcd.
            for process in reversed(processes):
                process.kill()
                process.wait()


class _Start(Protocol):
    """The type of the function that starts a program."""

    def __call__(self, argv: Sequence[str]) -> None: ...


def _start(
    binaries: Path,
    directory: Path,
    start: _Start,
    processes: Sequence[subprocess.Popen[bytes]],
    *,
    has_managers: bool,
) -> RealServer:
    key = directory / "sa.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    (directory / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
    (directory / "audit.yaml").write_text(yaml.safe_dump(_AUDIT))
    etcd_url, api_port = f"http://127.0.0.1:{free_port()}", free_port()
    start(_etcd(binaries, directory, etcd_url))
    start(_api_server(binaries, directory, etcd_url, api_port, has_accounts=has_managers))
    url = f"https://127.0.0.1:{api_port}"
    kubeconfig = directory / "kubeconfig"
    _write_kubeconfig(kubeconfig, url, TOKEN)
    _wait_ready(f"{url}/readyz", processes, directory / "log")
    if has_managers:
        start(
            [
                str(binaries / "kube-controller-manager"),
                f"--kubeconfig={kubeconfig}",
                f"--service-account-private-key-file={key}",
                f"--root-ca-file={directory / 'certs' / 'apiserver.crt'}",
                "--use-service-account-credentials=true",
                "--leader-elect=false",
                "--secure-port=0",
                # All but those that want nodes to answer.
                "--controllers=*,-node-lifecycle-controller,-node-ipam-controller",
            ]
        )
    return RealServer(
        url=url, kubeconfig=kubeconfig, audit=directory / "audit.log", binaries=binaries
    )


def _etcd(binaries: Path, directory: Path, url: str) -> Sequence[str]:
    return [
        str(binaries / "etcd"),
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls=http://127.0.0.1:{free_port()}",
        "--unsafe-no-fsync",
    ]


def _api_server(
    binaries: Path, directory: Path, etcd_url: str, port: int, *, has_accounts: bool
) -> Sequence[str]:
    key = directory / "sa.key"
    # Nobody makes the accounts called `default` where no controller manager runs.
    accounts = [] if has_accounts else ["--disable-admission-plugins=ServiceAccount"]
    return [
        str(binaries / "kube-apiserver"),
        f"--etcd-servers={etcd_url}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={directory / 'certs'}",
        f"--token-auth-file={directory / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--audit-policy-file={directory / 'audit.yaml'}",
        f"--audit-log-path={directory / 'audit.log'}",
        *accounts,
    ]


def _write_kubeconfig(path: Path, url: str, token: str) -> None:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "u", "user": {"token": token}}],
    }
    path.write_text(yaml.safe_dump(content))
    path.chmod(0o600)


def _wait_ready(url: str, processes: Sequence[subprocess.Popen[bytes]], log: Path) -> None:
    end = time.monotonic() + READY_S
    # Its certificate is made by itself a moment ago.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    while True:
        try:
            with urllib.request.urlopen(request, context=context, timeout=10) as response:
                if response.status == 200:
                    return
        except OSError as error:
            if time.monotonic() > end or any(p.poll() is not None for p in processes):
                said = log.read_text(errors="replace")[-4000:]
                raise AssertionError(f"the API server does not come: {error}\n{said}") from error
        time.sleep(0.2)
