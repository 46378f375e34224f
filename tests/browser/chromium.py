"""A headless Chromium, driven through its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import aiohttp

START_TIMEOUT_S = 40.0
WAIT_TIMEOUT_S = 30.0
POLL_S = 0.05
Params: TypeAlias = dict[str, object]


class PageError(AssertionError):
    """A script of the test failed in the page, or a condition never came true."""


def find_chromium() -> str | None:
    """The installed browser, if there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, session: str) -> None:
        self._socket = socket
        self._session = session
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Params]] = {}
        self.complaints: list[str] = []
        """Errors of the console, uncaught exceptions, violations of the content policy."""

    async def read(self) -> None:
        """Take in what the browser says until it is gone."""
        async for message in self._socket:
            found = json.loads(message.data)
            waiting = self._answers.pop(found.get("id", 0), None)
            if waiting is not None:
                waiting.set_result(found)
            else:
                self._event(found.get("method", ""), found.get("params", {}))

    def _event(self, method: str, params: Params) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params)[:2000])
        elif method == "Log.entryAdded":
            entry = params["entry"]
            assert isinstance(entry, dict)
            if entry["level"] == "error":
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")

    async def call(self, method: str, **params: object) -> Params:
        """One command of the protocol."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message: Params = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        await self._socket.send_json(message)
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            found = await answer
        if "error" in found:
            raise PageError(f"{method}: {found['error']}")
        result = found["result"]
        assert isinstance(result, dict)
        return result

    async def run(self, script: str) -> object:
        """The value of an expression in the page."""
        found = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise PageError(f"{script}: {json.dumps(found['exceptionDetails'])[:1500]}")
        result = found["result"]
        assert isinstance(result, dict)
        return result.get("value")

    async def wait(self, script: str) -> object:
        """Wait until an expression is true; one that fails, as in a page half read, is not yet."""
        deadline = asyncio.get_running_loop().time() + WAIT_TIMEOUT_S
        while not (value := await self._try(f"!!({script})")):
            if asyncio.get_running_loop().time() > deadline:
                text = await self.run("document.body.innerText.slice(0, 1500)")
                raise PageError(f"never true: {script}\n{text}\n{self.complaints}")
            await asyncio.sleep(POLL_S)
        return value

    async def _try(self, script: str) -> object:
        try:
            return await self.run(script)
        except PageError:
            return None

    async def open(self, url: str) -> None:
        """Go to an address."""
        await self.call("Page.navigate", url=url)

    async def colours(self, scheme: str) -> None:
        """Prefer `light` or `dark`, without movement: colours are there at once."""
        wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in wanted.items()]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def size(self, width: int, height: int) -> None:
        """Set the size of the window."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def key(self, key: str) -> None:
        """Press and release a key."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = "\r" if key == "Enter" else ""
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    async def screenshot(self, path: Path) -> None:
        """Write a picture of what is seen, as PNG."""
        found = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(str(found["data"])))


@asynccontextmanager
async def chromium_page(profile: Path) -> AsyncIterator[Page]:
    """A fresh tab of a fresh browser, gone at the end of the block."""
    # Chromium leaves its lock's directory behind; a socket in it wants a short path.
    scratch = tempfile.mkdtemp(prefix="mn-chromium-")
    process = await asyncio.to_thread(_start, profile, scratch)
    try:
        address = await _address(profile / "DevToolsActivePort", process)
        async with aiohttp.ClientSession() as client, asyncio.TaskGroup() as tasks:
            async with client.ws_connect(address, max_msg_size=0) as socket:
                page = Page(socket, "")
                reading = tasks.create_task(page.read())
                made = await page.call("Target.createTarget", url="about:blank")
                seen = await page.call(
                    "Target.attachToTarget", targetId=made["targetId"], flatten=True
                )
                page._session = str(seen["sessionId"])
                for domain in ("Page", "Runtime", "Log"):
                    await page.call(f"{domain}.enable")
                yield page
            await reading
    finally:
        process.terminate()
        try:
            process.wait(30.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30.0)
        await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)


def _start(profile: Path, scratch: str) -> subprocess.Popen[bytes]:
    binary = find_chromium()
    assert binary is not None, "chromium is not installed"
    return subprocess.Popen(
        [
            binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-extensions", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--hide-scrollbars",
            "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": scratch},
        start_new_session=True,
    )  # fmt: skip


async def _address(file: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while asyncio.get_running_loop().time() < deadline:
        assert process.poll() is None, "chromium ended at once"
        lines = await asyncio.to_thread(_lines, file)
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        await asyncio.sleep(POLL_S)
    raise PageError("chromium did not start in time")


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
