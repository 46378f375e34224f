"""Waypoints that Gateways of our class ask for: which objects make one, and what to say of it."""
