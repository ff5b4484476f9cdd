"""Orchestration: a plan becomes tasks, an engine runs them, one driver commits their rows.

catalog.py     what the plan asks of networks and data
work.py        the two kinds of task, as plain functions of their arguments
engine.py      what an engine must do; the inline engine (a plain loop)
ray_engine.py  Ray Tune for training runs, Ray tasks for trial blocks
ledger.py      what the store already holds of a plan
driver.py      the loop: submit what is missing, commit what comes back
progress.py    what a person sees meanwhile
"""
