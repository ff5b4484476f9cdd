"""Rows that were committed twice, found before anybody asks a question about them.

A driver asks the store what is there before it works, so repeated keys need somebody who did not (or a disk that was
copied back); the next compaction drops them. Until then SQL must not count them twice. Looking for them by grouping all
keys takes a quarter of a second per million trials; but nearly always a point's trials are 0, 1, ... without gaps, and
that shows in its count, its largest number and a sum of hashes, in a tenth of the time. Only points of which that is
not so are looked at key by key.
"""

from __future__ import annotations

import duckdb

from bnsweep.store.schema import KEYS

__all__ = ["first_of_each_key", "has_repeated_keys"]

# Equal sums of 64-bit hashes over as many numbers mean equal numbers but for one case in 2^64.
WITHOUT_GAPS = """
    WITH counted AS (
        SELECT point_id, count(*) AS n, max(trial) + 1 AS length, sum(hash(trial)) AS total
        FROM {source} GROUP BY point_id
    ),
    expected AS (
        SELECT number + 1 AS length, sum(hash(number::INTEGER)) OVER (ORDER BY number) AS total
        FROM range((SELECT coalesce(max(length), 0) FROM counted)) AS numbers(number)
    )
    SELECT point_id FROM counted LEFT JOIN expected USING (length)
    WHERE n <> length OR counted.total IS DISTINCT FROM expected.total
"""


def has_repeated_keys(connection: duckdb.DuckDBPyConnection, table: str, source: str) -> bool:
    """Whether a key of the table is there more than once in `source`, a table expression."""
    rows = source
    if table == "trials":
        suspects = WITHOUT_GAPS.format(source=source)
        if not connection.execute(f"SELECT count(*) FROM ({suspects})").fetchall()[0][0]:  # noqa: S608
            return False
        rows = f"{source} WHERE point_id IN ({suspects})"
    repeated = f"SELECT 1 FROM {rows} GROUP BY {', '.join(KEYS[table])} HAVING count(*) > 1 LIMIT 1"  # noqa: S608
    return bool(connection.execute(repeated).fetchall())


def first_of_each_key(table: str, source: str) -> str:
    """A SELECT of the rows of `source` whose keys were committed first."""
    keys = ", ".join(KEYS[table])
    first = f"row_number() OVER (PARTITION BY {keys} ORDER BY committed_at, filename, file_row_number) = 1"
    return f"SELECT * FROM {source} QUALIFY {first}"  # noqa: S608
