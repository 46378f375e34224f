"""Tunnels: HBONE streams and plain relays, moved by a replaceable engine.

`contract.py` is the seam. Python decides (accept, original destination, policy, pool, dial) and
hands the engine a descriptor and a stream; the engine moves bytes and reports.
"""
