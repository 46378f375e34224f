"""Endpoints, the choice between them, and connections to them."""
