"""What one process of a coordinator does at a time: offers, improvements, sums."""
