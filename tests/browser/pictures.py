"""Takes the pictures of the documents anew: `python -m tests.browser.pictures docs/pictures`.

What they show is the small mesh of the page's tests, as `meshnode dashboard` serves it.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.browser.chromium import Page, chromium_page
from tests.browser.page import SECRET, served
from tests.browser.world import small

QUALITY = 70
"""Text stays sharp, and a picture below 60 kB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One picture: a page by its hash, ready when a heading stands there."""

    place: str
    heading: str
    colours: str = "light"
    height: int = 640


SHOTS: Mapping[str, Shot] = {
    "graph": Shot(place="graph", heading="Service graph", height=660),
    "denials": Shot(place="denials", heading="Denials", height=360),
    "service-dark": Shot(
        place="service/shop%2Fcart", heading="shop/cart", colours="dark", height=560
    ),
}


async def take(directory: Path) -> None:
    """Write every picture into a directory."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch)
        async with served(small(), path) as url, chromium_page(path / "profile") as page:
            for name, shot in SHOTS.items():
                await page.size(1280, shot.height)
                await page.colours(shot.colours)
                await page.open(f"{url}/#secret={SECRET}")
                await page.wait(
                    "document.querySelector('#main h1')?.textContent === 'Service graph'"
                )
                await page.run(f"location.hash = '#/{shot.place}'")
                await page.wait(
                    f"document.querySelector('#main h1')?.textContent.includes({shot.heading!r})"
                )
                await _still(page)
                (directory / f"{name}.webp").write_bytes(await _picture(page))


async def _still(page: Page) -> None:
    """Wait until the graph has settled and the last answer is drawn."""
    script = "new Promise((done) => setTimeout(() => requestAnimationFrame(() => done(1)), 1500))"
    await page.call("Runtime.evaluate", expression=script, awaitPromise=True)


async def _picture(page: Page) -> bytes:
    found = await page.call("Page.captureScreenshot", format="webp", quality=QUALITY)
    return base64.b64decode(str(found["data"]))


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1])))
