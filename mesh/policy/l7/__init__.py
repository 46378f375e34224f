"""AuthorizationPolicy in full, at a point that sees requests: a waypoint.

`facts` is what is judged, `match` and `filing` compile rules, `scope` finds the policies of a
waypoint and a service, `engine` decides, `explain` shows the way. Pure: no I/O, no clock.
"""
