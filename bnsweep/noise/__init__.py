"""Noise on trained networks: draws, trials, curves, and how many of them an interval needs."""
