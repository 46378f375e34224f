"""What is installed into a cluster, generated from what the code reads and does."""
