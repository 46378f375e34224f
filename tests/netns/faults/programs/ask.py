"""Send a text once and want it back: `ask.py ADDRESS PORT TEXT`. Prints how it ended, as JSON.

`ok`, `refused` and `reset` speak for themselves; `closed`: the end came before the answer;
`timeout`: the kernel gave up connecting; `hang`: nothing happened for 20 s.
"""

import json
import socket
import sys
import time

address, port, text = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
began = time.monotonic()
try:
    with socket.create_connection((address, port), timeout=20) as sock:
        sock.sendall(text)
        got = b""
        while len(got) < len(text):
            sock.settimeout(max(0.1, began + 20 - time.monotonic()))
            data = sock.recv(65536)
            if not data:
                break
            got += data
        end = "ok" if got == text else "closed"
except ConnectionRefusedError:
    end = "refused"
except (ConnectionResetError, BrokenPipeError):
    end = "reset"
except TimeoutError as error:
    end = "timeout" if error.errno else "hang"
except OSError as error:
    end = str(error)
print(json.dumps({"end": end, "seconds": time.monotonic() - began}))
