"""What node process and ztunnel workers tell each other, over one stream socket per worker.

The node trusts nothing a worker says: every message is decoded into the types of `messages.py`,
with a bound on its size.
"""
