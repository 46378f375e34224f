"""The controller's side of Kubernetes."""
