"""HTTP/2 sessions without I/O: bytes in, batches of events out. `contract.py` is the interface.

Two engines implement it: `nghttp2` (compiled, the default) and `h2` (portable, and the independent
peer in tests).
"""
