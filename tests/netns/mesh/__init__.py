"""The whole mesh under real traffic: two nodes, unmodified programs, real agents."""
