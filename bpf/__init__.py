"""C programs for the kernel, one file per hook, and the Python mirror of their structs."""
