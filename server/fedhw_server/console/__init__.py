"""Monitoring for the operator."""
