"""What the demo prints: chapters, and claims that are checked before they get their tick."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mesh.errors import MeshnodeError

MAX_REASON_LINES = 30


@dataclass(slots=True)
class Claim:
    """A claim being checked; set `detail` to what was seen."""

    text: str
    detail: str = ""


class Narrator:
    """Tells the story on a console; plain text where it is not a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self.kept = 0
        self.broken: list[str] = []

    def title(self, text: str, subtitle: str) -> None:
        self._console.print(f"[bold]{escape(text)}[/bold]\n{escape(subtitle)}")

    def chapter(self, text: str) -> None:
        elapsed = time.monotonic() - self._started
        self._console.print(f"\n[bold cyan]{escape(text)}[/bold cyan] [dim]{elapsed:.0f} s[/dim]")

    def say(self, text: str) -> None:
        self._console.print(f"  {escape(text)}", highlight=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(*columns, box=None, padding=(0, 2, 0, 2), header_style="dim")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self._console.print(table)

    @contextmanager
    def claim(self, text: str) -> Iterator[Claim]:
        """Print the claim with a tick if the block ends well, with a cross and why if not.

        A claim that does not hold (AssertionError), or cannot be checked because meshnode refuses
        (MeshnodeError), does not end the story; anything else does.
        """
        claim = Claim(text)
        started = time.monotonic()
        status = self._console.status(f"  {escape(text)}")
        try:
            with status:
                yield claim
        except (AssertionError, MeshnodeError) as error:
            self.broken.append(claim.text)
            self._console.print(f"  [bold red]✗ {escape(claim.text)}[/bold red]")
            for line in str(error).splitlines()[:MAX_REASON_LINES]:
                self._console.print(f"      {escape(line)}", highlight=False)
            return
        self.kept += 1
        detail = f" [dim]— {escape(claim.detail)}[/dim]" if claim.detail else ""
        took = time.monotonic() - started
        seconds = f" [dim]{took:.1f} s[/dim]" if took >= 1 else ""
        self._console.print(
            f"  [green]✓[/green] {escape(claim.text)}{detail}{seconds}", highlight=False
        )

    def summary(self) -> None:
        elapsed = time.monotonic() - self._started
        if self.broken:
            self._console.print(
                f"\n[bold red]{len(self.broken)} of {self.kept + len(self.broken)} claims "
                f"did not hold[/bold red] ({elapsed:.0f} s)"
            )
            for text in self.broken:
                self._console.print(f"  ✗ {escape(text)}")
        else:
            self._console.print(
                f"\n[bold green]All {self.kept} claims were checked and hold[/bold green] "
                f"({elapsed:.0f} s)"
            )
