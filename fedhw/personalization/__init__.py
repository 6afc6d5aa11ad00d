"""Learning one person from a few corrections, for one writer or thousands at once."""
