"""Part files: rows of one table, checked against its schema, in the order of their key, as one Parquet file.

A part's name is the digest of its table and row keys, then that of its bytes, which depend on its rows alone (not on
the order they came in): whoever writes a name again writes the same file.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bnsweep.errors import SchemaError, StoreDamagedError, StoreError, UnknownNameError
from bnsweep.store import schema
from bnsweep.store.filesystem import Files, one_line
from bnsweep.store.log import Part

__all__ = [
    "LOST",
    "UPGRADES",
    "conform",
    "content_id",
    "describe_part",
    "encode",
    "first_of_each_key",
    "in_key_order",
    "load",
    "load_each",
    "read_part",
    "repeated_key",
    "row_codes",
    "sort_by_key",
    "upgraded",
]

ROW_GROUP = 122_880  # rows; what DuckDB hands to one thread
MANY_VALUES = 4096  # beyond this many different strings, a dictionary per row group costs more than it saves

# Ranges that let a reader skip row groups; for the other columns they cost more to compute than the rest of the file.
STATISTICS = ("sweep", "run_id", "point_id", "eta", "trial", "train_seed", "bn_kept", "epoch")

# What becomes of the rows of a part that is set aside, where no run simply computes them again.
_WHILE_TRAINING = (
    "but its {rows} rows are lost: they are measured while networks train. `bnsweep store merge` takes them from "
    "another store that trained the same networks, such as a copy of this one"
)
_PLANNED = "and the next run of each sweep writes again what its newest version says"
AFTERWARDS = {
    "sweeps": _PLANNED,
    "points": _PLANNED,
    "runs": "and the next run computes its {rows} rows again, and the trials of these networks with them",
    "epochs": _WHILE_TRAINING,
    "probes": _WHILE_TRAINING,
    "failures": "but its {rows} rows are lost: the next run tries once more the blocks that were given up",
}
LOST = frozenset({"epochs", "probes", "failures"})  # tables whose rows no run computes again

# How rows of a schema version become rows of the next: (table name, rows) -> rows. Columns that a newer version adds
# are filled with null without being named here.
UPGRADES: dict[int, Callable[[str, pa.Table], pa.Table]] = {}


def check_table(name: str) -> pa.Schema:
    """The schema of a table; UnknownNameError with the valid names."""
    if name not in schema.SCHEMAS:
        raise UnknownNameError("table", name, schema.SCHEMAS)
    return schema.SCHEMAS[name]


def conform(name: str, rows: pa.Table, *, now: datetime | None = None) -> pa.Table:
    """Rows with the schema's columns, order and types, committed_at filled in where it is missing or null.

    Raises StoreError for columns that are missing, unknown, of another type, or null in a key.
    """
    wanted = check_table(name)
    have = set(rows.column_names)
    missing = [column for column in wanted.names if column not in have and column != "committed_at"]
    unknown = [column for column in rows.column_names if column not in wanted.names]
    if missing or unknown or len(have) != len(rows.column_names):
        raise StoreError(
            f"rows of {name} have exactly its columns once, but missing are: {', '.join(missing) or 'none'}; "
            f"unknown: {', '.join(unknown) or 'none'}"
        )
    columns = [_column(name, rows, field) for field in wanted if field.name != "committed_at"]
    columns.append(_committed(rows, wanted.field("committed_at"), now or datetime.now(UTC)))
    order = [column for column in wanted.names if column != "committed_at"] + ["committed_at"]
    table = pa.table(dict(zip(order, columns, strict=True))).select(wanted.names).cast(wanted)
    if name != "failures":  # a failed training run has no point
        for key in schema.KEYS[name]:
            if table[key].null_count:
                raise StoreError(f"the key {key!r} of {name} is never null, but {table[key].null_count} rows have none")
    return table


def _column(name: str, rows: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    column = rows[field.name]
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise StoreError(
            f"column {field.name!r} of {name} is {field.type}, but got {column.type} that does not fit: "
            f"{one_line(error)}"
        ) from error


def _committed(rows: pa.Table, field: pa.Field, now: datetime) -> pa.ChunkedArray | pa.Array:
    stamp = pa.scalar(now, field.type)
    if "committed_at" not in rows.column_names:
        return pa.repeat(stamp, rows.num_rows)
    return pc.fill_null(rows["committed_at"].cast(field.type), stamp)


def row_codes(table: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """One int64 per row, equal for rows that agree in these columns and ordered as they are; nulls come last."""
    codes = np.zeros(table.num_rows, dtype=np.int64)
    span = 1
    for column in columns:
        ranks, count = _ranks(table[column])
        if span * count >= 2**62:  # too many combinations: number those that occur
            distinct, codes = np.unique(codes, return_inverse=True)
            span = len(distinct)
        codes, span = codes * count + ranks, span * count
    return codes


def _ranks(column: pa.ChunkedArray) -> tuple[np.ndarray, int]:
    """The place of each value among the sorted different ones."""
    whole = column.unify_dictionaries() if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
    array = whole.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # a table without rows
        array = array.chunk(0) if array.num_chunks else pa.array([], whole.type)
    values = array.dictionary
    order = pc.sort_indices(values).to_numpy(zero_copy_only=False)
    rank = np.empty(len(values) + 1, dtype=np.int64)
    rank[order] = np.arange(len(values))
    rank[-1] = len(values)
    indices = pc.fill_null(array.indices, len(values) if len(values) < 2**31 else -1)
    return rank[indices.to_numpy(zero_copy_only=False)], len(values) + 1


def sort_by_key(name: str, table: pa.Table) -> pa.Table:
    """The rows in the order of their run and key: a run's rows lie together, where readers skip and zstd shrinks."""
    # In one piece first: dictionaries of many pieces are unified once, and taking from many pieces is slow.
    table = table.unify_dictionaries().combine_chunks()
    keys = schema.KEYS[name]
    run = ("run_id",) if "run_id" in schema.SCHEMAS[name].names and "run_id" not in keys else ()
    codes = row_codes(table, (*run, *keys))
    if np.all(codes[1:] >= codes[:-1]):
        return table
    order = pa.array(np.argsort(codes, kind="stable"))
    columns = [_taken(column, order) for column in table.columns]
    return pa.table(columns, schema=table.schema)


def _taken(column: pa.ChunkedArray, order: pa.Array) -> pa.ChunkedArray | pa.Array:
    """The values in another order; most columns of a large table are dictionaries, and many hold one value or none."""
    if column.null_count == len(column):
        return column
    if pa.types.is_dictionary(column.type) and column.null_count == 0 and len(column.chunk(0).dictionary) == 1:
        return column
    return column.combine_chunks().take(order)


def in_key_order(codes: np.ndarray, committed_at: pa.ChunkedArray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The places of rows in the order of their `row_codes`, and for each whether the one before has the same code.

    Of equal codes the one committed first comes first, where times are given; then the one that lies first.
    """
    times = () if committed_at is None else (committed_at.cast(pa.int64()).to_numpy(),)
    order = np.lexsort((*times, codes))  # stable, so that rows of sorted parts take a tenth of the time of others
    ordered = codes[order]
    again = np.zeros(len(order), dtype=bool)
    again[1:] = ordered[1:] == ordered[:-1]
    return order, again


def repeated_key(name: str, table: pa.Table) -> dict[str, Any] | None:
    """A key that more than one of the rows has."""
    order, again = in_key_order(row_codes(table, schema.KEYS[name]))
    if not again.any():
        return None
    row: dict[str, Any] = table.select(schema.KEYS[name]).slice(int(order[again.argmax()]), 1).to_pylist()[0]
    return row


def first_of_each_key(name: str, table: pa.Table) -> pa.Table:
    """The rows in the order of their key; of rows with the same key the one that was committed first."""
    order, again = in_key_order(row_codes(table, schema.KEYS[name]), table["committed_at"])
    return table.take(pa.array(order[~again]))


def content_id(name: str, table: pa.Table) -> str:
    """32 hex digits of the digest of a table's name and the keys of its rows, which are sorted."""
    digest = hashlib.sha256(name.encode())
    for key in schema.KEYS[name]:
        column = table[key]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        nulls = pc.is_null(column).to_numpy().tobytes() if column.null_count else b""
        if pa.types.is_string(column.type):
            lengths = pc.binary_length(pc.fill_null(column, "")).to_numpy().astype("<i4")
            joined = "".join(column.drop_null().to_pylist()) if column.null_count else _joined(column)
            pieces = [lengths.tobytes(), joined if isinstance(joined, bytes) else joined.encode()]
        else:
            pieces = [pc.fill_null(column, 0).to_numpy().astype("<i8").tobytes()]
        for piece in [nulls, *pieces]:
            digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()[:32]


def _joined(column: pa.ChunkedArray) -> bytes:
    """The bytes of all strings of a column without nulls, one after the other."""
    pieces = []
    for chunk in column.chunks:
        if len(chunk):
            _, offsets, data = chunk.buffers()
            places = np.frombuffer(offsets, dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            pieces.append(bytes(memoryview(data)[places[0] : places[-1]]) if data is not None else b"")
    return b"".join(pieces)


def encode(name: str, table: pa.Table) -> pa.Buffer:
    """The Parquet file of rows that `conform`; strings may be dictionaries. The same rows give the same bytes."""
    metadata = {
        # Dictionaries are how rows were held in memory, not what they are: the file says the table's own schema.
        b"ARROW:schema": base64.b64encode(schema.SCHEMAS[name].serialize().to_pybytes()),
        b"bnsweep:table": name.encode(),
        b"bnsweep:schema_version": str(schema.SCHEMA_VERSION).encode(),
    }
    table = _as_stored(table)
    sink = pa.BufferOutputStream()
    writer = pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=[field.name for field in table.schema if not pa.types.is_floating(field.type)],
        write_statistics=[column for column in STATISTICS if column in table.column_names],
        write_page_checksum=True,
        store_decimal_as_integer=True,
        store_schema=False,
    )
    with writer:
        writer.write_table(table, row_group_size=ROW_GROUP)
        writer.add_key_value_metadata(metadata)
    return sink.getvalue()


def _as_stored(table: pa.Table) -> pa.Table:
    """Columns without nulls marked as such, which halves the time to read them, and no long dictionaries."""
    fields, columns = [], []
    for field, column in zip(table.schema, table.columns, strict=True):
        kind = field.type
        if pa.types.is_dictionary(kind):
            column = column.unify_dictionaries()  # noqa: PLW2901
            if column.num_chunks and len(column.chunk(0).dictionary) > MANY_VALUES:
                kind = kind.value_type
                column = column.cast(kind)  # noqa: PLW2901
        fields.append(pa.field(field.name, kind, nullable=column.null_count > 0))
        columns.append(column)
    return pa.table(columns, schema=pa.schema(fields))


def describe_part(name: str, path: str, table: pa.Table, data: pa.Buffer) -> Part:
    """What the log says about an encoded part."""
    return Part(path, name, table.num_rows, data.size, hashlib.sha256(data).hexdigest(), schema.SCHEMA_VERSION)


def read_part(files: Files, part: Part) -> bytes:
    """The bytes of a part; StoreDamagedError unless they are the ones that were committed."""
    try:
        data = files.read(part.path)
    except FileNotFoundError as error:
        raise StoreDamagedError(f"{files.url(part.path)} is gone. {_way_out(part)}") from error
    if len(data) != part.bytes:
        raise StoreDamagedError(
            f"{files.url(part.path)} has {len(data)} bytes, but {part.bytes} were committed. {_way_out(part)}"
        )
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise StoreDamagedError(f"{files.url(part.path)} does not match its digest. {_way_out(part)}")
    return data


def _way_out(part: Part) -> str:
    follows = AFTERWARDS.get(part.table, "and the next run computes its {rows} rows again").format(rows=part.rows)
    return f"`bnsweep store verify --repair` sets it aside, {follows}."


def load(files: Files, part: Part, *, columns: Sequence[str] | None = None, dictionaries: bool = False) -> pa.Table:
    """A part's rows in today's schema, after checking its digest. `dictionaries`: keep strings dictionary-encoded."""
    data = read_part(files, part)
    strings = [field.name for field in schema.SCHEMAS[part.table] if pa.types.is_string(field.type)]
    try:
        source = pq.ParquetFile(pa.BufferReader(data), read_dictionary=strings if dictionaries else None)
        current = part.version == schema.SCHEMA_VERSION
        rows = source.read(columns=list(columns) if columns is not None and current else None, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise StoreDamagedError(f"{files.url(part.path)} is no part of a store: {one_line(error)}") from error
    rows = upgraded(part, rows)
    return rows if columns is None else rows.select(list(columns))


def load_each(files: Files, parts: Sequence[Part], **options: Any) -> list[pa.Table]:
    """The rows of each of several parts."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda part: load(files, part, **options), parts))


def upgraded(part: Part, rows: pa.Table) -> pa.Table:
    """Rows of an older schema version as rows of today's."""
    # Files say which columns happen to have no null; tables of different parts must have one schema.
    rows = pa.table(rows.columns, schema=pa.schema([field.with_nullable(True) for field in rows.schema]))
    if part.version == schema.SCHEMA_VERSION:
        return rows
    for version in range(part.version, schema.SCHEMA_VERSION):
        if version in UPGRADES:
            rows = UPGRADES[version](part.table, rows)
    columns = {}
    for field in schema.SCHEMAS[part.table]:
        if field.name in rows.column_names:
            columns[field.name] = _column(part.table, rows, field)
        else:
            columns[field.name] = pa.nulls(rows.num_rows, field.type)
    return pa.table(columns)


def check_version(location: str, version: int) -> None:
    """Refuse a store whose rows this bnsweep cannot know the meaning of."""
    if version > schema.SCHEMA_VERSION:
        raise SchemaError(
            f"{location} was written with schema version {version}, and this bnsweep knows versions up to "
            f"{schema.SCHEMA_VERSION}: upgrade bnsweep (pip install -U bnsweep), or export the store with the newer one"
        )
