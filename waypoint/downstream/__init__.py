"""From a client's connection to its protocol, and those that are no HTTP."""
