"""DuckDB over a store's live parts: the only place where SQL is executed.

What is asked runs in a cage. The connection reads the listed parts and nothing else, loads no extension, sees no Python
variable and cannot be reconfigured; a statement must be one SELECT and runs in a read-only transaction. None of these
is enough alone. Tried on DuckDB 2.0: a statement of type SELECT may hold INSERT or COPY TO in its WITH clause; the
read-only transaction stops INSERT, but COPY TO a part that may be read overwrites it (`USE_TMP_FILE false`), read-only
transaction or not. So the plan is looked at before a statement of the user's runs, and small tables, which most are,
are copied into memory, where no file is left to be overwritten.
"""

from __future__ import annotations

import re
import threading
from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from scipy.special import ndtri, stdtrit

from bnsweep.analysis.locked import LOCKED, SESSION, asked, why_not
from bnsweep.analysis.paper import paper_store, paper_tables
from bnsweep.analysis.queries import QUERIES, Column, Query, described_views, find_query, views
from bnsweep.analysis.repeated import first_of_each_key, has_repeated_keys
from bnsweep.analysis.result import Result
from bnsweep.errors import InputError, QueryError, StoreDamagedError, StoreUnwritableError, UnknownNameError
from bnsweep.store.schema import SCHEMA_VERSION, SCHEMAS, describe

if TYPE_CHECKING:
    from bnsweep.store.store import Store

__all__ = [
    "QUERIES",
    "Database",
    "Result",
    "find_query",
    "open_database",
    "open_paper",
    "open_snapshot",
    "write_snapshot",
]

IN_MEMORY_ROWS = 200_000  # per table: about 60 MB, and a report asks some twenty times
CONFIDENCES = (0.5, 0.68, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)  # for which a snapshot has quantiles
STUDENT_DF = 1000  # beyond, Student's t is taken for normal: 0.2 % off at 95 %

UNREADABLE = re.compile(r"magic bytes|Parquet")  # in what DuckDB says of a part that is no part any more


class Database:
    """The tables of a store, or of the paper, and the views over them. One thread at a time."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, sweeps: tuple[str, ...], source: str) -> None:
        self.sweeps = sweeps  # names of the sweeps that are asked about
        self.source = source  # where the rows come from, for messages and reports
        self._connection = connection
        self._confidences: set[float] = set()

    def query(
        self,
        name: str,
        given: Mapping[str, object] | None = None,
        /,
        *,
        limit: int | None = None,
        time_limit_s: float | None = None,
        **parameters: object,
    ) -> Result:
        """Answer a question of queries/; parameters that are not given have the header's defaults.

        Parameters are keywords; those whose names come from elsewhere are in `given`, where none is taken for ours.
        Raises UnknownNameError for the query or a parameter, InputError for a value, QueryError past `time_limit_s`.
        """
        query = find_query(name)
        values = query.bind({**(given or {}), **parameters})
        self._ready_for(values.get("confidence", 0.95))
        bound = {p.name: values.get(p.name, p.value) for p in query.parameters}
        table, truncated = self._fetch(query.sql, bound, limit=limit, time_limit_s=time_limit_s)
        return Result(_columns(query, table), table, truncated, query.sql)

    def sql(self, text: str, *, limit: int | None = 10_000, time_limit_s: float | None = 60.0) -> Result:
        """Answer one SELECT of the user's, of which at most `limit` rows are kept.

        Raises QueryError with the SQL's error and, for an unknown name, the names there are.
        """
        self._check(text)
        table, truncated = self._fetch(text, {}, limit=limit, time_limit_s=time_limit_s)
        return Result(tuple(Column(name) for name in table.column_names), table, truncated, text)

    def tables(self) -> tuple[str, ...]:
        """Names of the tables and views that a SELECT can read."""
        sql = "SELECT table_name FROM information_schema.tables WHERE table_catalog = current_database() ORDER BY ALL"
        rows = self._connection.execute(sql).fetchall()
        return tuple(name for (name,) in rows)

    def _offered(self) -> tuple[str, ...]:
        """Names of those that are for everybody, which `schema` describes."""
        rows = self._connection.execute("SELECT DISTINCT table_name FROM described ORDER BY ALL").fetchall()
        return tuple(name for (name,) in rows)

    def whole_tables(self, text: str) -> tuple[str, ...]:
        """Tables of the store that a SELECT reads itself, not through a view: they hold the rows of all sweeps."""
        (tree,) = self._connection.execute("SELECT json_serialize_sql($text)", {"text": text}).fetchall()[0]
        named = set(re.findall(r'"type":"BASE_TABLE"[^{}]*?"table_name":"(\w+)"', tree))
        return tuple(table for table in SCHEMAS if table in named)

    def close(self) -> None:
        """Let go of files and memory."""
        self._connection.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, text: str) -> None:
        """Refuse all but one statement that only reads."""
        with self._explained(), _reading(self._connection):
            reason = why_not(self._connection, text)
        if reason:
            raise QueryError(reason)

    def _fetch(
        self, text: str, values: Mapping[str, object], *, limit: int | None, time_limit_s: float | None
    ) -> tuple[pa.Table, bool]:
        """Rows, and whether there were more than `limit`."""
        if limit is not None and limit < 1:
            raise InputError(f"`limit` must be at least 1, but got {limit}")
        connection = self._connection
        with self._explained(), _reading(connection), _stopped(connection, time_limit_s):
            relation = asked(connection, text, values)
            table = (relation if limit is None else relation.limit(limit + 1)).to_arrow_table()
        if limit is None or table.num_rows <= limit:
            return table, False
        return table.slice(0, limit), True

    def _ready_for(self, confidence: object) -> None:
        """Have the quantiles of Student's t at hand."""
        if not isinstance(confidence, (int, float)) or not 0 < confidence < 1:
            raise InputError(f"`0 < confidence < 1` must hold, but got {confidence}")
        if confidence not in self._confidences:
            _add_quantiles(self._connection, float(confidence))
            self._confidences.add(float(confidence))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """DuckDB's errors as ours."""
        try:
            yield
        except duckdb.InterruptException as error:
            raise QueryError("the time limit was reached; ask for less, or allow more time") from error
        except duckdb.CatalogException as error:
            raise QueryError(f"{_message(error)}\nTables and views: {', '.join(self._offered())}") from error
        except duckdb.OutOfMemoryException as error:
            raise QueryError(f"{_message(error)}\nAsk for less, or open the database with more memory.") from error
        except duckdb.PermissionException as error:
            raise QueryError(f"a question reads the store's tables and nothing else: {_message(error)}") from error
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            if isinstance(error, duckdb.InvalidInputException) and not UNREADABLE.search(str(error)):
                raise QueryError(_message(error)) from error
            raise _damaged(self.source, error) from error
        except duckdb.Error as error:
            raise QueryError(_message(error)) from error


def open_database(
    store: Store, *, sweep: str | None = None, threads: int | None = None, memory_mb: int | None = None
) -> Database:
    """DuckDB over the live parts of a store, about one of its sweeps or all.

    Tables of up to 200,000 rows are read at once; larger ones are read from their parts by each question. Rows that
    were committed twice are left out of both, and are looked for once, here: see repeated.py.
    Raises UnknownNameError for the sweep, StoreDamagedError for a part.
    """
    connection = _connect(threads, memory_mb)
    readable: list[str] = []
    try:
        for table in SCHEMAS:
            readable += _attach(connection, store, table)
        return _finish(connection, sweep=sweep, source=store.location, readable=readable)
    except duckdb.Error as error:
        raise _damaged(store.location, error) from error


def open_paper(*, threads: int | None = None, memory_mb: int | None = None) -> Database:
    """The paper's own tables behind the same views: one training run and one trial per figure, with no spread."""
    connection = _connect(threads, memory_mb)
    for name, rows in paper_store().items():
        _copy(connection, name, rows)
    return _finish(connection, sweep=None, source="the paper's tables", readable=[])


def write_snapshot(store: Store, path: Path) -> None:
    """The store's rows and the views over them as one DuckDB file, about all sweeps; there at once or not at all.

    Whoever opens it read-only needs no access to the store (console.py, `open_snapshot`). Raises StoreDamagedError,
    StoreUnwritableError.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    remnants = (temporary, temporary.with_name(f"{temporary.name}.wal"))
    for remnant in remnants:
        remnant.unlink(missing_ok=True)
    try:
        _fill_snapshot(store, temporary)
        temporary.replace(path)
    except duckdb.Error as error:
        if temporary.name in str(error):  # this disk is full, say: no fault of the store's
            raise StoreUnwritableError(f"cannot write {path}: {_message(error)}; make room there") from error
        raise _damaged(store.location, error) from error
    finally:
        for remnant in remnants:  # each try on a full disk would leave another
            remnant.unlink(missing_ok=True)


def _fill_snapshot(store: Store, path: Path) -> None:
    connection = _connect(1, None, place=str(path))
    try:
        for table in SCHEMAS:
            small = store.rows(table) <= IN_MEMORY_ROWS
            _copy(connection, table, store.read(table, unique=True) if small else store.dataset(table))
            if not small and has_repeated_keys(connection, table, table):
                connection.execute(f"DROP TABLE {table}")
                _copy(connection, table, store.read(table, unique=True))
        database = _finish(connection, sweep=None, source=store.location, readable=[])
        for confidence in CONFIDENCES:
            database._ready_for(confidence)
        connection.execute("CHECKPOINT")  # which closing does too, but without a word where the disk is full
    finally:
        connection.close()


def open_snapshot(path: Path, *, sweep: str | None = None, threads: int = 1, memory_mb: int | None = None) -> Database:
    """A snapshot's rows, about one of its sweeps or all. Raises UnknownNameError for the sweep."""
    connection = _connect(threads, memory_mb)
    quoted = str(path).replace("'", "''")
    connection.execute(f"ATTACH '{quoted}' AS snapshot (READ_ONLY)")
    for table in SCHEMAS:
        connection.execute(f"CREATE VIEW {table} AS FROM snapshot.{table}")
    return _finish(connection, sweep=sweep, source="the store", readable=[])


def _connect(threads: int | None, memory_mb: int | None, *, place: str = ":memory:") -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = dict(LOCKED)
    if threads is not None:
        config["threads"] = str(threads)
    if memory_mb is not None:
        config["memory_limit"] = f"{memory_mb}MB"
    connection = duckdb.connect(place, config=config)
    connection.execute(SESSION)
    return connection


def _attach(connection: duckdb.DuckDBPyConnection, store: Store, table: str) -> list[str]:
    """Make a table of the store readable; the files that it is read from."""
    if store.rows(table) <= IN_MEMORY_ROWS:
        _copy(connection, table, store.read(table, unique=True))
        return []
    paths = store.part_paths(table)
    current = all(part.version == SCHEMA_VERSION for part in store.parts(table))
    # DuckDB takes brackets, stars and question marks in a path for a pattern, and opens s3:// with an extension only.
    if current and not any("://" in path or set(path) & set("*?[]") for path in paths):
        quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
        source = f"read_parquet([{quoted}])"
        repeated = has_repeated_keys(connection, table, source)
        rows = first_of_each_key(table, source) if repeated else f"SELECT * FROM {source}"  # noqa: S608
        connection.execute(f"CREATE VIEW {table} AS {rows}")
        return paths
    connection.register(table, store.dataset(table))
    if has_repeated_keys(connection, table, table):
        connection.unregister(table)
        connection.register(table, store.read(table, unique=True))
    return []


def _copy(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table | ds.Dataset) -> None:
    connection.register("incoming", rows)
    connection.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")  # noqa: S608
    connection.unregister("incoming")


def _finish(connection: duckdb.DuckDBPyConnection, *, sweep: str | None, source: str, readable: list[str]) -> Database:
    """Make the views, then lock the connection."""
    names = tuple(name for (name,) in connection.execute("SELECT DISTINCT sweep FROM sweeps ORDER BY 1").fetchall())
    if sweep is not None and sweep not in names:
        raise UnknownNameError("sweep", sweep, names)
    chosen = names if sweep is None else (sweep,)
    _copy(connection, "scope", pa.table({"sweep": pa.array(chosen, pa.string())}))
    _copy(connection, "paper_tables", paper_tables())
    connection.execute("CREATE TABLE student (confidence DOUBLE, quantiles DOUBLE[])")
    connection.execute(views())
    _copy(connection, "described", _described(connection))
    database = Database(connection, sweeps=chosen, source=source)
    wanted = connection.execute("SELECT DISTINCT confidence FROM points WHERE confidence IS NOT NULL").fetchall()
    for confidence in {0.95, *(value for (value,) in wanted)}:
        database._ready_for(confidence)
    connection.execute("SET allowed_paths = $paths", {"paths": readable})
    for setting in ("temp_directory = ''", "enable_external_access = false", "lock_configuration = true"):
        connection.execute(f"SET {setting}")
    return database


def _described(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """Every column of every table, and of the views that are for everybody, with its unit."""
    meanings = {table: {name: (unit, told) for name, _, unit, told in describe(table)} for table in SCHEMAS}
    rows = [(table, *row) for table in SCHEMAS for row in describe(table)]
    for view in described_views():
        own = {column.name: (column.unit, column.meaning) for column in view.columns}
        meanings[view.name] = dict(ChainMap(own, *(meanings[name] for name in view.behind)))
        fields = connection.sql(f"FROM {view.name} LIMIT 0").to_arrow_table().schema
        rows += [(view.name, field.name, str(field.type), *meanings[view.name][field.name]) for field in fields]
    names = ("table_name", "column_name", "type", "unit", "meaning")
    columns = {name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(names)}
    return pa.table({**columns, "position": pa.array(range(len(rows)), pa.int64())})


def _add_quantiles(connection: duckdb.DuckDBPyConnection, confidence: float) -> None:
    """Two-sided quantiles of Student's t for 1 to 1000 degrees of freedom, and the normal one."""
    upper = 0.5 + confidence / 2
    quantiles = [*stdtrit(np.arange(1, STUDENT_DF + 1), upper).tolist(), float(ndtri(upper))]
    connection.execute(
        "INSERT INTO student VALUES ($confidence, $quantiles)", {"confidence": confidence, "quantiles": quantiles}
    )


@contextmanager
def _reading(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """A transaction that cannot write to any table, rolled back at the end."""
    # No cursor: another connection would not see what was registered from Python (parts on object stores).
    connection.execute("BEGIN TRANSACTION READ ONLY")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


@contextmanager
def _stopped(connection: duckdb.DuckDBPyConnection, time_limit_s: float | None) -> Iterator[None]:
    """Interrupt what runs after a while: DuckDB has no time limit of its own."""
    if time_limit_s is None:
        yield
        return
    timer = threading.Timer(time_limit_s, connection.interrupt)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _columns(query: Query, table: pa.Table) -> tuple[Column, ...]:
    known = {column.name: column for column in query.columns}
    return tuple(known.get(name, Column(name)) for name in table.column_names)


def _damaged(source: str, error: duckdb.Error) -> StoreDamagedError:
    return StoreDamagedError(
        f"{source}: {_message(error)}\n`bnsweep store verify` says what is damaged; if the store was compacted "
        "meanwhile, ask again."
    )


def _message(error: duckdb.Error) -> str:
    return str(error).strip()
