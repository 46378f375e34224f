"""Names that an installation has unless somebody chooses others."""

SYSTEM_NAMESPACE = "meshnode-system"
"""Where agents and controller run; policies there hold for the whole mesh."""
