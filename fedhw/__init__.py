"""Streaming federated personalization of a character recogniser."""

__version__ = "0.1.0"
