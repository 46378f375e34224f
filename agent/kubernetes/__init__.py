"""The node's side of Kubernetes: its pods' network namespaces."""
