"""Everything that may leave a device passes through this package."""
