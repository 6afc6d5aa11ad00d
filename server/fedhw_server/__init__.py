"""The coordinator of a fleet."""
