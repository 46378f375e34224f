"""How many requests a worker has under way, whoever has them.

Python's exchanges and both lanes count in a cell each, in memory that all of them read: the limit
is of their sum, and nobody has to tell anybody.
"""

from __future__ import annotations

from array import array

PYTHON, HTTP1_LANE, HTTP2_LANE = range(3)


class Crowd:
    """The cells of one worker; C writes into them too, so their place never changes."""

    __slots__ = ("cells",)

    def __init__(self) -> None:
        self.cells = array("I", [0, 0, 0])

    @property
    def size(self) -> int:
        """Requests under way."""
        return sum(self.cells)
