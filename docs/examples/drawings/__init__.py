"""Small drawings in place of characters: somebody else's data in fedhw."""
