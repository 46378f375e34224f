"""The Kubernetes API as a source of objects: list, watch, and what goes wrong with them."""
