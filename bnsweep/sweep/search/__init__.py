"""Placement search: which BN layers to keep, found out by training few placements of very many.

study.py       which runs to do next: known placements, then a sampler's, repeats included
samplers.py    Optuna's samplers by name, and ours
surrogate.py   what few noisy runs say about all placements
minimal.py     the fewest BN layers that converge
objectives.py  trial rows -> what a study is told
job.py         train one placement and score it, in one task
tuning.py      Ray Tune around the studies
run.py         one call: store, claim, studies, Tune
emit.py        a sweep that trains what was found with more seeds
"""
