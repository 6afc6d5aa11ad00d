"""The services that devices call."""
