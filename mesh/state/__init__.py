"""Objects to snapshots, and the difference between snapshots. Pure: no I/O, no clock."""
