"""AuthorizationPolicy and PeerAuthentication: who may connect, and which rule said so.

`engine` decides one connection, `kernel` turns the decisions of a node into a table for the
kernel, `explain` shows the way to a decision. Pure: no I/O, no clock.
"""
