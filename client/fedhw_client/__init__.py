"""The device's side: where the network begins for the person who writes."""
