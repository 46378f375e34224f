"""Other kernels: Debian's, booted in software emulation on this machine's own root file system."""
