"""The development cluster cannot be built here; what its files rely on can be checked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
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
