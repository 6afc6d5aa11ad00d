"""Attacks on what leaves a device, and what they find out."""
