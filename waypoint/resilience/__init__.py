"""What a TrafficPolicy does: limits, retries, hedging, ejection, faults, pacing."""
