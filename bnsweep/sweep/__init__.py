"""Orchestration: a plan becomes tasks, an engine runs them, one driver commits their rows. README lists the modules."""
