"""Noise on trained networks: draws, trials, curves, and how many of them an interval needs."""

from bnsweep.noise.curve import Curve, noise_curve

__all__ = ["Curve", "noise_curve"]
