"""Limits that hold for all workers of a waypoint together: see `shared.h` and `table`."""
