"""A glyph: one handwritten character as a small grey picture."""

from fedhw.observation import ObservationType

SIDE = 28
"""Height and width in pixels."""

GLYPH = ObservationType((SIDE, SIDE), "uint8")
"""Ink 255 on paper 0, upright."""
