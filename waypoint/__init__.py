"""The L7 proxy that a service or namespace opts into."""
