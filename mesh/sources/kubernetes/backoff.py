"""How long to wait after a failure: longer each time, and never the same for two of us."""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 0.5
LONGEST_S = 30.0


class Backoff:
    """Counts failures in a row.

    Args:
        random: uniform in [0, 1). A thousand nodes lose a server in the same instant; what
            spreads their return is this.
    """

    def __init__(
        self,
        random: Callable[[], float],
        *,
        first_s: float = FIRST_S,
        longest_s: float = LONGEST_S,
    ) -> None:
        self._random = random
        self._first_s = first_s
        self._longest_s = longest_s
        self.failures = 0

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Seconds to wait after one more failure: half to all of the doubled wait.

        Args:
            at_least_s: what the server asked for.
        """
        # Beyond 2**16 the limit has long been reached; the power must not grow for ever.
        wait_s = min(self._longest_s, self._first_s * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return at_least_s + wait_s * (1.0 + self._random()) / 2.0

    def reset(self) -> None:
        """Things work again."""
        self.failures = 0
