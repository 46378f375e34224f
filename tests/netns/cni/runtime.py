"""What a container runtime does with a CNI configuration, as far as a test needs it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.cni.config import active_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """How a call of a plugin ended. `answer` is its standard output, decoded."""

    code: int
    answer: Mapping[str, object]
    text: str

    @property
    def message(self) -> str:
        return str(self.answer.get("msg", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A runtime with its two directories."""

    conf_dir: Path
    bin_dir: Path

    def call(
        self,
        command: str,
        *,
        namespace: str,
        name: str,
        uid: str = "",
        netns: str = "",
        address: str = "",
        timeout_s: float = 60.0,
    ) -> Called:
        """Call the last plugin of the list as the runtime does after the others."""
        path = active_file(self.conf_dir)
        assert path is not None
        tree = json.loads(path.read_text())
        config = {
            **tree["plugins"][-1],
            "cniVersion": tree["cniVersion"],
            "name": tree["name"],
            "prevResult": self.result(address, netns),
        }
        pod = f"K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"sandbox-{name}",
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.bin_dir),
            "CNI_ARGS": f"IgnoreUnknown=1;{pod}",
        }
        return run_plugin(
            self.bin_dir / str(config["type"]), json.dumps(config), environment, timeout_s
        )

    @staticmethod
    def result(address: str, netns: str) -> Mapping[str, object]:
        """What the plugin before ours answers."""
        return {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "eth0", "sandbox": netns}],
            "ips": [{"interface": 0, "address": f"{address}/32"}] if address else [],
            "dns": {"search": ['odd "quotes" } here']},
        }


def run_plugin(
    program: Path, config: str, environment: Mapping[str, str], timeout_s: float = 60.0
) -> Called:
    """Run a plugin program with nothing but what it may rely on."""
    done = subprocess.run(
        [str(program)],
        input=config,
        env={"PATH": os.defpath, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.stderr == ""
    answer = json.loads(done.stdout) if done.stdout else {}
    return Called(code=done.returncode, answer=answer, text=done.stdout)
