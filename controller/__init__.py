"""The control plane: signs certificates; later runs waypoints and writes status."""
