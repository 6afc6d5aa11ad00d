"""The coordinator's processes: offers, improvements, secure sums, and what supervises them."""
