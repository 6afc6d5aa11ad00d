"""Where things are that tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The repository."""

DEPLOY = ROOT / "deploy"

SHARED = ROOT.parent / "shared" / "data"
"""Real handwriting, which is too large for the repository and lies beside it."""
