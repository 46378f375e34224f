"""A server for the tests: `python app.py PORT VERSION`; aiohttp, HTTP/1.1 and WebSocket."""

from __future__ import annotations

import asyncio
import hashlib
import sys

from aiohttp import WSMsgType, web


def make_app(version: str) -> web.Application:
    failures = {"left": 0}

    async def index(request: web.Request) -> web.Response:
        return web.Response(text=version)

    async def headers(request: web.Request) -> web.Response:
        text = "".join(f"{name.lower()}: {value}\n" for name, value in request.headers.items())
        return web.Response(text=f"{request.path_qs}\n{text}")

    async def fail(request: web.Request) -> web.Response:
        failures["left"] = int(request.match_info["count"])
        return web.Response(text="armed")

    async def flaky(request: web.Request) -> web.Response:
        if failures["left"]:
            failures["left"] -= 1
            return web.Response(status=503, text="busy")
        return web.Response(text=version)

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(float(request.match_info["seconds"]))
        return web.Response(text=version)

    async def digest(request: web.Request) -> web.Response:
        total = hashlib.sha256()
        async for piece in request.content.iter_any():
            total.update(piece)
        return web.Response(text=total.hexdigest())

    async def blob(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        piece = bytes(range(256)) * 4096
        for _ in range(int(request.match_info["mib"])):
            await response.write(piece)
        return response

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(f"{version}: {message.data}")
        return socket

    app = web.Application(client_max_size=1 << 30)
    app.router.add_get("/headers", headers)
    app.router.add_get("/fail/{count}", fail)
    app.router.add_get("/flaky", flaky)
    app.router.add_get("/slow/{seconds}", slow)
    app.router.add_post("/digest", digest)
    app.router.add_get("/blob/{mib}", blob)
    app.router.add_get("/ws", echo)
    app.router.add_route("*", "/{rest:.*}", index)
    return app


if __name__ == "__main__":
    web.run_app(make_app(sys.argv[2]), port=int(sys.argv[1]), print=lambda *_: None)
