"""The commands of the operator; they join `fedhw` by entry point."""
