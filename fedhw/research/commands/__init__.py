"""Commands that train a release, simulate with it and count its cost."""
