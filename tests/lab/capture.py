"""A packet capture on the wire between the nodes."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.network import WIRE_BRIDGE, NodeAddresses
from tests.lab.process import Place, Process
from tests.lab.system import eventually, in_netns

FENCE_PORT = 9  # discard
BUFFER_KIB = 16384


class Capture:
    """Everything that crosses the wire, in a file that can be searched while it grows."""

    def __init__(self, process: Process, file: Path, sender: tuple[str, str]) -> None:
        self.file = file
        self._process = process
        self._sender_netns, self._target = sender

    def contains(self, wanted: bytes) -> bool:
        """Whether a packet seen so far holds these bytes; call `fence` before trusting a no."""
        return wanted in self.file.read_bytes()

    def fence(self) -> None:
        """Wait until all that was sent before this call is in the file.

        A datagram of random bytes is sent across the wire; packets are written in order.
        """
        mark = os.urandom(16)

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(mark, (self._target, FENCE_PORT))

        in_netns(self._sender_netns, send)
        eventually(lambda: self.contains(mark), 30.0, "the capture shows the fence")

    @property
    def size_bytes(self) -> int:
        return self.file.stat().st_size

    def dropped(self) -> int:
        """Packets the capture lost; known once it has ended."""
        for line in self._process.output.splitlines():
            if line.endswith("packets dropped by kernel"):
                return int(line.split()[0])
        raise AssertionError(f"tcpdump gave no summary:\n{self._process.output}")


@contextmanager
def capture_wire(
    wire: Place, directory: Path, sender_netns: str, target: NodeAddresses
) -> Iterator[Capture]:
    """Capture while the block runs; `sender_netns` and `target` are two nodes on the wire.

    A block that ends well also proves that no packet was missed.
    """
    file = directory / f"wire-{len(list(directory.glob('wire-*.pcap')))}.pcap"
    argv = ["tcpdump", "-i", WIRE_BRIDGE, "-n", "-U", "--immediate-mode", "-s", "0"]
    argv += ["-B", str(BUFFER_KIB), "-w", "-"]
    # The shell opens the file: tcpdump gives up root before it would, and Ubuntu 24.04's crashes
    # when it is told to stay root (-Z root).
    shell = ["sh", "-c", 'file=$1; shift; exec "$@" >"$file"', "capture", str(file), *argv]
    process = Process(wire, shell, file.with_suffix(".log"))
    try:
        process.wait_output("listening on")
        capture = Capture(process, file, (sender_netns, target.underlay4))
        yield capture
        capture.fence()
        process.signal(signal.SIGINT)
        process.wait()
        assert capture.dropped() == 0, f"{capture.dropped()} packets were not captured"
    finally:
        process.stop()
