"""Capture: everything between the agent and the kernel's hooks, maps and links."""
