"""The coordinator's side: where the network begins for the operator."""
