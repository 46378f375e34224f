"""A certificate authority beside the agents, with lifetimes of seconds."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from agent.options import DEFAULT_CA_PORT
from controller.admin import create_token, init_ca, list_roots, rotate_root
from mesh.identity.roots import CaState, RootStage
from mesh.identity.state_dir import StateDir
from tests.lab import Agent, Lab, Node
from tests.lab.agent import MESHNODE_ENVIRONMENT
from tests.lab.process import Process
from tests.netns.faults.world import OPTIONS, PROGRAMS

ALIAS = "former.example"
"""A second trust domain that is accepted from the start."""


class Authority:
    """Runs on `node`, which must be there first; start and stop it as often as needed."""

    def __init__(self, lab: Lab, node: Node, *, leaf_lifetime_s: float, name: str = "ca") -> None:
        self._lab = lab
        self._node = node
        self._lifetime_s = leaf_lifetime_s
        self.state_dir = lab.directory / name
        init_ca(
            self.state_dir,
            trust_domain="cluster.local",
            aliases=[ALIAS],
            now=time.time(),
            random_bytes=os.urandom,
        )
        self._process: Process | None = None

    def start(self) -> None:
        self._process = Process(
            self._node.place,
            [
                *(sys.executable, str(PROGRAMS / "authority.py"), str(self._lab.objects.path)),
                *(str(self.state_dir), self._node.addresses.underlay4, str(DEFAULT_CA_PORT)),
                str(self._lifetime_s),
            ],
            self._lab.log_path("authority"),
            MESHNODE_ENVIRONMENT,
        )
        self._process.wait_output("serving")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()

    def token_for(self, node: Node) -> Path:
        """A file with a join token for a node."""
        file = self._lab.directory / f"{self.state_dir.name}-token-{node.short_name}"
        file.touch(mode=0o600)
        file.write_text(
            create_token(self.state_dir, node.name, now=time.time(), random_bytes=os.urandom)
        )
        return file

    def rotate(self) -> None:
        rotate_root(self.state_dir, now=time.time(), random_bytes=os.urandom)

    def drop_alias(self) -> None:
        """Accept the own trust domain alone from now on."""

        def dropped(state: CaState) -> CaState:
            own = state.trust_domains[:1]
            return replace(state, trust_domains=own, revision=state.revision + 1)

        StateDir(self.state_dir).update_ca(dropped)

    def stages(self) -> list[RootStage]:
        return [root.stage for root in list_roots(self.state_dir)]

    def join(self, node: Node, *options: str) -> Agent:
        """Start the agent of `node` on certificates of this authority."""
        address = f"{self._node.addresses.underlay4}:{DEFAULT_CA_PORT}"
        token = ("--ca-address", address, "--join-token-file", str(self.token_for(node)))
        agent = Agent(
            paths=node.paths,
            place=node.place,
            log_file=self._lab.log_path(f"{node.short_name}-agent"),
            source=self._lab.objects.path,
            pods_cgroup=node.pods_cgroup,
            options=[*token, *OPTIONS, *options],
        )
        node.running_agent = agent
        agent.wait_ready()
        return agent
