"""Placement search: which BN layers to keep, by training few placements of very many. README lists the modules."""
