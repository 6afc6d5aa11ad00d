"""The commands of a device; they join `fedhw` by entry point."""
