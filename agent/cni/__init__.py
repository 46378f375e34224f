"""The chained CNI plugin's side of the agent: a pod starts only after it was captured."""
