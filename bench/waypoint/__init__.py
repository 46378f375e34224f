"""The waypoint beside Envoy: HTTP/1.1, HTTP/2, gRPC, bodies, latency at a fixed rate, memory."""
