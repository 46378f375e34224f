"""All of `meshnode bpf`: importing a module adds its commands to the group."""

from agent.cli import bpf_monitor
from agent.cli.bpf import bpf

__all__ = ["bpf", "bpf_monitor"]
