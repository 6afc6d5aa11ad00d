"""The commands of research: a release made, tried and costed."""
