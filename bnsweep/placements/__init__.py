"""Placements as numbers: what runs say of all of them, and which of them no other one beats."""
