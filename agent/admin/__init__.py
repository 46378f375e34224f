"""What the node shows of itself: to the command line over a unix socket, to Prometheus over TCP."""
