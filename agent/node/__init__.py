"""The node process: turns snapshots into kernel maps, enrolled pods, certificates and worker state.

It runs the loader, keeps the holder and the workers alive, and answers people (admin, metrics). No
application byte passes through it; when it is gone, everything else goes on with what it has.
"""
