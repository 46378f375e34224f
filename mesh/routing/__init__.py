"""L7 routing: which rule takes a request, and what its filters do to it. Pure.

`table` compiles the routes of a snapshot, `status` computes their conditions, `filters` and
`cors` act on message heads, `path` and `host` normalise a request before policy and routing.
"""
