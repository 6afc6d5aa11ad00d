"""Engines that run the cohorts of a simulation: on this machine, on Ray, or as a Flower app."""
