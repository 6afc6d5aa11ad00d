"""The coordinator's storage: devices, sums of reports, attempts, its home."""
