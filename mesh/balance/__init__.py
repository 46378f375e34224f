"""Choosing an endpoint. Pure: load and randomness are given."""
