"""From a request to its plan: routes, or the service itself."""
