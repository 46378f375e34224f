"""HBONE's application layer: the CONNECT request and its answer as values. No I/O.

The de-facto protocol is Istio's: an ordinary CONNECT (RFC 9113 §8.5) whose authority is the target,
with optional telemetry headers. Reading is tolerant about those and strict about the rest.
"""
