"""The native tunnel engine: TLS, HTTP/2 frames and both sockets in one C thread.

`native.h` is what Python sees of it, `engine.py` adapts that to `mesh.tunnel.contract`. The thread
never takes the interpreter lock; Python hears of connections, never of chunks.
"""
