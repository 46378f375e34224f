"""HTTP/1.1 messages (RFC 9112) without I/O: heads, framing, bodies, and an incremental reader.

A message that leaves any doubt where it ends is refused, never repaired: two parsers that disagree
about it are what request smuggling is made of.
"""
