"""Where the cohorts of a simulation are worked on: here, on Ray, or as a Flower app."""
