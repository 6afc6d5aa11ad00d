"""The commands of the operator and of the fleet; `fedhw.cli` puts them together."""
