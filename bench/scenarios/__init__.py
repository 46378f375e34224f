"""The scenarios, by what they run on."""
