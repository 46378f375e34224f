"""The Gateway API's conformance cases for a mesh, as data.

Each case has its upstream name, the objects it applies, and exchanges: what is asked and what
must come of it. Whoever runs the table decides how: on the pure core, or with real bytes.
"""
