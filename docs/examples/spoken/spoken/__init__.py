"""Spoken digits in place of written characters: a plug-in of another world."""
