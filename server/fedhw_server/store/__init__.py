"""What a coordinator keeps: devices, sums of reports, attempts, its home."""
