"""What a device exchanges with its coordinator."""
