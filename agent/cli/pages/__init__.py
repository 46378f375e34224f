"""Writes manual and reference pages from the code."""
