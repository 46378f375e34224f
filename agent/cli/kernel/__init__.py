"""`meshnode bpf`: what the kernel holds, for people."""
