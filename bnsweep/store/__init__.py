"""The store: rows as Parquet parts that are committed exactly once, networks beside them. pyarrow, never torch."""

from bnsweep.store.checkpoints import Checkpoints, Slot
from bnsweep.store.claim import Claim
from bnsweep.store.log import Part
from bnsweep.store.schema import KEYS, SCHEMA_VERSION, SCHEMAS, VOLATILE
from bnsweep.store.store import Store

__all__ = ["KEYS", "SCHEMAS", "SCHEMA_VERSION", "VOLATILE", "Checkpoints", "Claim", "Part", "Slot", "Store"]
