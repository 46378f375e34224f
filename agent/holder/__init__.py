"""The holder: a tiny root process that owns the listeners of enrolled pods and vends sockets.

It survives restarts of the agent, so that nothing is refused meanwhile, and it is the only process
that enters pod namespaces while traffic flows. Whoever parses bytes from the network gets
descriptors from it and needs no privilege.

Process: `__main__`, `daemon`, `server`, `channel`, `pods`, `sockets`, `orphans`; standard library
only, because its memory is paid on every node and its code must be short enough to audit.
Clients: `client` and `launch` (node process, blocking), `feed` and `stash` (workers, asyncio).
Both speak `protocol` over `wire`.
"""
