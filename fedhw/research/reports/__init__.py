"""Reports with pictures: of many writers, and of a fleet's days."""
