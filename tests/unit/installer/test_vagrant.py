"""The development cluster's machines cannot be made here; what their files say can be run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from installer.settings import read_set
from mesh.sources.decode import KINDS, decode

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "vagrant"
SCRIPTS = ("provision", "smoke", "kubeconfig-of-control")
CLUSTER = ROOT / "scripts" / "cluster"


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_be_run_and_are_clean(name: str) -> None:
    path = FOLDER / name
    assert os.access(path, os.X_OK)
    shell = path.read_text().partition("\n")[0].removeprefix("#!")
    subprocess.run([shell, "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(path)], check=True)


def test_the_scripts_of_the_cluster_are_clean() -> None:
    scripts = [path for path in CLUSTER.iterdir() if os.access(path, os.X_OK) and path.is_file()]
    shells = [path for path in scripts if "bash" in path.read_text().partition("\n")[0]]
    assert len(shells) >= 7
    for path in shells:
        subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        command = ["shellcheck", "-x", "--source-path", str(ROOT), *map(str, shells)]
        subprocess.run(command, check=True, cwd=ROOT)


def test_ruby_reads_the_vagrantfile() -> None:
    if shutil.which("ruby") is None:
        pytest.skip("ruby is not installed")
    subprocess.run(["ruby", "-c", str(FOLDER / "Vagrantfile")], check=True)


INSTALLER = """
printf 'k3s %s\\n' "$*" >>"$CALLS"
printf '#!/bin/sh\\nprintf "k3s %%s\\\\n" "$*" >>"$CALLS"\\n' >"$PROGRAMS/k3s"
chmod +x "$PROGRAMS/k3s"
"""


@pytest.fixture
def provision(tmp_path: Path) -> Callable[[str], list[str]]:
    """Runs the provisioning on a machine whose programs only say how they were called; what is
    installed is the real command's output."""
    programs, calls = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    say = f'printf "%s %s\\n" "$(basename "$0")" "$*" >>"{calls}"\n'
    meshnode = shlex.join([sys.executable, "-c", "from agent.cli.main import main; main()"])
    bodies = {
        "apt-get": say,
        "mountpoint": "exit 0\n",
        "ip": "echo '3: eth1    inet 192.168.56.10/24 brd 192.168.56.255 scope global eth1'\n",
        "curl": f"cat <<'END'\n{INSTALLER}END\n",
        "kubectl": f'{say}[ ! -f "$3" ] || cp "$3" "{tmp_path}/applied.yaml"\n',
        "buildah": f'{say}[ "$1" != run ] || {{ shift 4; exec {meshnode} "$@"; }}\n'
        '[ "$1" != from ] || echo made\n',
    }
    for name, body in bodies.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}")
        (programs / name).chmod(0o755)

    def run(name: str) -> list[str]:
        path = f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin"
        env = {
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(tmp_path),
            "CALLS": str(calls),
            "PROGRAMS": str(programs),
        }
        calls.write_text("")
        command = [str(FOLDER / "provision"), name, "192.168.56.10", "192.168.56.10"]
        subprocess.run(command, check=True, env=env, timeout=60, capture_output=True)
        return calls.read_text().splitlines()

    return run


def test_provisioning_installs_a_cluster_once_and_meshnode_each_time(
    provision: Callable[[str], list[str]], tmp_path: Path
) -> None:
    first, again = provision("control"), provision("control")
    (server,) = [call for call in first if call.startswith("k3s server")]
    assert "--node-ip 192.168.56.10" in server
    assert "--flannel-iface eth1" in server
    assert not [call for call in again if call.startswith("k3s server")]
    for calls in (first, again):
        assert [call for call in calls if call.startswith("k3s ctr images import ")]
        assert [call for call in calls if call.startswith("buildah build ")]
    applied = list(yaml.safe_load_all((tmp_path / "applied.yaml").read_text()))
    (agents,) = [one for one in applied if one["kind"] == "DaemonSet"]
    assert "/var/lib/rancher/k3s/data/cni" in yaml.safe_dump(agents)


def test_provisioning_a_worker_joins_it(provision: Callable[[str], list[str]]) -> None:
    calls = provision("worker-1")
    (joined,) = [call for call in calls if call.startswith("k3s agent")]
    assert "--server https://192.168.56.10:6443" in joined
    assert [call for call in calls if call.startswith("k3s ctr images import ")]
    assert not [call for call in calls if call.startswith("kubectl")]


def test_the_settings_of_the_cluster_exist() -> None:
    found = re.findall(r"--set (\S+)", (FOLDER / "provision").read_text())
    assert len(found) >= 5
    for text in found:
        read_set(text)


@pytest.mark.parametrize("name", ["shop.yaml", "policy.yaml", "canary.yaml", "route.yaml"])
def test_the_mesh_reads_the_sample(name: str) -> None:
    documents = list(yaml.safe_load_all((FOLDER / "sample" / name).read_text()))
    read = [decode(one, name) for one in documents if one["kind"] in KINDS]
    assert read
    for one in documents:
        namespace = one["metadata"].get("namespace", one["metadata"]["name"])
        assert namespace == "meshnode-e2e"
