"""A mesh on one machine: nodes and pods as network namespaces. For tests, demo and benchmarks."""

from tests.lab.agent import Agent
from tests.lab.capture import Capture
from tests.lab.process import Process, Result
from tests.lab.record import sweep
from tests.lab.system import LabError, eventually
from tests.lab.topology import Lab, Node, Pod

__all__ = [
    "Agent",
    "Capture",
    "Lab",
    "LabError",
    "Node",
    "Pod",
    "Process",
    "Result",
    "eventually",
    "sweep",
]
