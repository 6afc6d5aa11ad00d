"""What a device keeps: corrections, profiles, its home."""
