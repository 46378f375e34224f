"""Who can be asked: an agent here, a whole cluster, files, a Prometheus."""
