"""Data sets, networks, BN sites and one training run. Neither Ray nor DuckDB is needed here.

Specs come in as frozen objects with the fields of `bnsweep.experiment.spec`; pydantic is not imported here.
"""
