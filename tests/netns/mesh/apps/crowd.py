"""Many connections at once, or one after another: without a thread per connection.

crowd.py serve PORT            accept all, answer the first byte with it, keep them open
crowd.py hold ADDRESS PORT N   open N, prove each by one byte, say so; end all at end of input
crowd.py churn ADDRESS PORT RATE SECONDS   short connections; says how many failed
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import sys
import time

OPENING_AT_ONCE = 64


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(100):
            writer.write(data)
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve(port: int) -> None:
    server = await asyncio.start_server(answer, ["0.0.0.0", "::"], port, backlog=4096)
    print("serving", flush=True)
    await server.serve_forever()


async def open_one(address: str, port: int) -> asyncio.StreamWriter:
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(b"x")
    got = await reader.readexactly(1)
    if got != b"x":
        raise ConnectionError(f"got {got!r}")
    return writer


async def hold(address: str, port: int, count: int) -> None:
    turn = asyncio.Semaphore(OPENING_AT_ONCE)

    async def take_turn() -> asyncio.StreamWriter:
        async with turn:
            return await open_one(address, port)

    writers = await asyncio.gather(*(take_turn() for _ in range(count)))
    print(f"held {len(writers)}", flush=True)
    signalled = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signalled.set)
    print("ready to end", flush=True)
    await signalled.wait()
    for writer in writers:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in writers))
    print("closed", flush=True)


async def churn(address: str, port: int, rate: int, seconds: int) -> None:
    failed: list[str] = []

    async def one() -> None:
        try:
            writer = await asyncio.wait_for(open_one(address, port), 30)
            writer.close()
            await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            failed.append(repr(error))

    started = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(rate * seconds):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            tasks.create_task(one())
    took = time.monotonic() - started
    print(
        json.dumps({"opened": rate * seconds, "failed": failed[:5], "seconds": round(took, 2)}),
        flush=True,
    )


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    mode, *rest = sys.argv[1:]
    if mode == "serve":
        asyncio.run(serve(int(rest[0])))
    elif mode == "hold":
        asyncio.run(hold(rest[0], int(rest[1]), int(rest[2])))
    else:
        asyncio.run(churn(rest[0], int(rest[1]), int(rest[2]), int(rest[3])))


if __name__ == "__main__":
    main()
