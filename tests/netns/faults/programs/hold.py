"""Keep one connection busy until SIGTERM: `hold.py ADDRESS PORT`.

A byte every 20 ms, which must come back. Prints `held` after the first; at the end one JSON object
with the longest time a byte took and how it ended: `alive` if it lived until SIGTERM.
"""

import errno
import json
import signal
import socket
import sys
import time

stopping = False


def stop(*_: object) -> None:
    global stopping
    stopping = True


signal.signal(signal.SIGTERM, stop)
end, longest, count = "alive", 0.0, 0
began = time.monotonic()
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as sock:
        while not stopping:
            start = time.monotonic()
            sock.sendall(b"x")
            if not sock.recv(1):
                end = "closed"
                break
            longest = max(longest, time.monotonic() - start)
            count += 1
            if count == 1:
                print("held", flush=True)
            time.sleep(0.02)
except TimeoutError:
    end = "hang"
except OSError as error:
    end = errno.errorcode.get(error.errno or 0, str(error))
took = time.monotonic() - began
print(json.dumps({"end": end, "longest": longest, "count": count, "seconds": took}), flush=True)
