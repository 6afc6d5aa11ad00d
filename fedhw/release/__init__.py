"""Releases of the global expert: immutable, versioned, self-describing."""
