"""Programs that run inside pods, by path and with the standard library alone."""
