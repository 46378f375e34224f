"""Open short connections at a steady rate until SIGTERM: `churn.py ADDRESS PORT PER_SECOND`.

It makes 200 at least. Every connection sends a few bytes and wants them back within 20 s. At the
end one JSON object tells how each of them ended; `bad` holds those that were not served, with the
second they began.
"""

import asyncio
import collections
import errno
import json
import signal
import sys
import time

LIMIT_S = 20.0
LEAST = 200


async def talk(address: str, port: int) -> str:
    try:
        reader, writer = await asyncio.open_connection(address, port)
    except OSError as error:
        return "connect " + errno.errorcode.get(error.errno or 0, str(error))
    try:
        writer.write(b"sixteen bytes it")
        await reader.readexactly(16)
    except asyncio.IncompleteReadError:
        return "closed"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    finally:
        writer.close()
    return "ok"


async def main() -> None:
    address, port, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    ends: collections.Counter[str] = collections.Counter()
    bad: list[tuple[float, float, str]] = []
    slowest = 0.0
    began = time.monotonic()

    async def one() -> None:
        nonlocal slowest
        start = time.monotonic()
        try:
            async with asyncio.timeout(LIMIT_S):
                end = await talk(address, port)
        except TimeoutError:
            end = "hang"
        took = time.monotonic() - start
        ends[end] += 1
        slowest = max(slowest, took)
        if end != "ok":
            bad.append((round(start - began, 3), round(took, 3), end))

    async with asyncio.TaskGroup() as group:
        turn = 0
        print("going", flush=True)
        while not stop.is_set() or turn < LEAST:
            group.create_task(one())
            turn += 1
            await asyncio.sleep(max(0.0, began + turn / rate - time.monotonic()))
        took = time.monotonic() - began
    print(json.dumps({"ends": ends, "bad": bad, "slowest": slowest, "seconds": took}), flush=True)


asyncio.run(main())
