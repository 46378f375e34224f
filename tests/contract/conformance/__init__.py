"""The Gateway API's conformance table with real bytes.

A case's objects are read from YAML, its backends are servers on loopback, and between them and a
raw client runs a worker's data path: sniffing, codecs, routes, pool.
"""
