"""Writers and their characters: one form, many sources."""
