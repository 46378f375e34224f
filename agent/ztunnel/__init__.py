"""The node-level L4 proxy: one unprivileged worker process per core.

A connection is a value that grows: accepted -> original destination -> plan -> tunnel or dial ->
record. `plan_*.py` decide and touch no socket; `outbound.py`, `inbound.py` and `plaintext.py` carry
the decision out; `mesh.tunnel` moves the bytes.
"""
