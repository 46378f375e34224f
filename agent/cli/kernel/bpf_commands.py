"""All of `meshnode bpf`: importing a module adds its commands to the group."""

from agent.cli.kernel import bpf_monitor
from agent.cli.kernel.bpf import bpf

__all__ = ["bpf", "bpf_monitor"]
