"""The node agent: capture, holder, ztunnel, node process, admin, command line."""
