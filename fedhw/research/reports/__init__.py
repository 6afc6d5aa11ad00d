"""Reports with pictures: on many writers, and on the days of a fleet."""
