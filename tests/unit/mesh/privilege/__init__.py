"""Tests of `mesh.privilege` that need no privilege."""
