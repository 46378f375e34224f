"""What agent, waypoint and controller share: model, policy, identity, tunnel, state, sources."""
