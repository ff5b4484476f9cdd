"""The store: rows as Parquet parts that are committed exactly once, networks beside them. pyarrow, never torch."""
