"""What the API server says when it does not do what was asked."""

from __future__ import annotations

from http import HTTPStatus

from mesh.errors import MeshnodeError


class KubeError(MeshnodeError):
    """A request to the API server failed.

    Attributes:
        status: HTTP status of the answer, 0 where there was none.
        reason: `metav1.Status.reason`, such as `Expired` or `AlreadyExists`; may be empty.
        retry_after_s: how long the server asked to wait; 0 if it did not.
    """

    def __init__(
        self, message: str, *, status: int = 0, reason: str = "", retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s

    @property
    def is_missing(self) -> bool:
        """No such object, or no such kind of object."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def is_position_lost(self) -> bool:
        """The resource version or the continue token is too old: list again."""
        return self.status == HTTPStatus.GONE

    @property
    def is_conflict(self) -> bool:
        """Somebody else changed or made the object first."""
        return self.status == HTTPStatus.CONFLICT
