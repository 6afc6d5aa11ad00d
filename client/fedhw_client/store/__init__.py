"""The device's storage: corrections, profiles, its home."""
