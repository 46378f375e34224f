"""Path templates: `{*}` is one segment, `{**}` any rest (Envoy's URI template matcher)."""

from __future__ import annotations

from dataclasses import dataclass

ONE = "{*}"
REST = "{**}"


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A compiled template. Linear in the length of the path.

    Attributes:
        head: segments before `{**}`, None for `{*}`; tail: the text after it, None without one.
    """

    head: tuple[str | None, ...]
    tail: str | None

    def hits(self, path: str) -> bool:
        """Say whether a path fits."""
        head, at = self.head, 0
        for number, wanted in enumerate(head):
            end = path.find("/", at)
            last = end < 0
            if last:
                end = len(path)
            if path[at:end] != wanted if wanted is not None else end == at:
                return False
            if last:
                return self.tail is None and number == len(head) - 1
            at = end + 1
        # A slash follows the head: only `{**}` can take what is behind it.
        tail = self.tail
        return tail is not None and len(path) - at >= len(tail) and path.endswith(tail)

    @property
    def prefix(self) -> str:
        """The text every path that fits starts with."""
        known: list[str] = []
        for segment in self.head:
            if segment is None:
                break
            known.append(segment)
        whole = len(known) == len(self.head) and self.tail is None
        return "/".join(known) + ("" if whole else "/")


def compile_template(text: str) -> PathTemplate:
    """Compile a template that `mesh.sources` has checked."""
    head, rest, tail = text.partition(REST)
    segments = head.split("/")
    if rest:
        segments.pop()  # What follows the slash before `{**}`.
    return PathTemplate(
        tuple(None if segment == ONE else segment for segment in segments),
        tail if rest else None,
    )
