"""The typed values everything else is made of. Imports nothing of meshnode but `mesh.errors`.

All values are immutable. A snapshot is built once by the reducer and shared; nobody mutates it.
"""
