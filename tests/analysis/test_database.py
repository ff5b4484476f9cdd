"""The cage around SQL, and stores of every kind behind the same views."""

from __future__ import annotations

import pickle
import re
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
import synthetic
from small_disks import mounted

from bnsweep.analysis import database as module
from bnsweep.analysis.database import Database, open_database, open_paper, write_snapshot
from bnsweep.errors import InputError, QueryError, StoreDamagedError, StoreUnwritableError, UnknownNameError
from bnsweep.store.schema import SCHEMAS
from bnsweep.store.store import Store

ATTACKS = (
    "COPY (SELECT 1) TO '{part}'",
    "EXPLAIN ANALYZE COPY (SELECT 1 AS a) TO '{part}' (FORMAT csv, USE_TMP_FILE false)",
    "WITH c AS (COPY (SELECT 1 AS a) TO '{part}' (FORMAT csv, USE_TMP_FILE false)) SELECT * FROM c",
    "WITH c AS MATERIALIZED (COPY (SELECT 1 AS a) TO '{part}' (FORMAT parquet, USE_TMP_FILE false)) SELECT * FROM c",
    "SELECT * FROM query('WITH c AS (COPY (SELECT 1 AS a) TO ''{twice}'' (FORMAT csv, USE_TMP_FILE false)) FROM c')",
    "WITH i AS (INSERT INTO student VALUES (0.5, [1.0]) RETURNING 1) SELECT * FROM i",
    "WITH i AS (DELETE FROM sweep RETURNING 1) SELECT * FROM i",
    "UPDATE sweep SET sweep = 'x'",
    "DROP TABLE sweep",
    "CREATE TEMP TABLE x AS SELECT 1",
    "ATTACH '{folder}/x.db'",
    "EXPORT DATABASE '{folder}/export'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET threads = 8",
    "SET lock_configuration = false",
    "RESET allowed_paths",
    "PRAGMA enable_profiling",
    "CALL enable_logging()",
    "COMMIT",
    "SELECT 1; DROP TABLE sweep",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM read_parquet('{folder}/other.parquet')",
    "SELECT getenv('HOME')",
    "SELECT * FROM secret",
    "VACUUM",
    "",
)


@pytest.fixture(scope="module", params=["memory", "parts", "dataset"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Database]:
    """One store read in each of the three ways."""
    name = "store [1]*" if request.param == "dataset" else "it's a 'store'"
    store = Store.create(tmp_path_factory.mktemp("database") / name)
    store.commit(synthetic.tables(trials=3, seeds=2, models=("resnet8",)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "IN_MEMORY_ROWS", 10**6 if request.param == "memory" else 0)
        return store, open_database(store, threads=1)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_question_cannot_do_harm(opened: tuple[Store, Database], attack: str) -> None:
    secret = pa.table({"password": ["x"]})
    assert secret.num_rows  # a Python variable that SQL must not see
    store, database = opened
    part = store.part_paths("trials")[0]
    before = Path(part).read_bytes()
    names = database.tables()
    quoted = part.replace("'", "''")
    statement = attack.format(part=quoted, folder=str(Path(quoted).parent), twice=quoted.replace("'", "''"))
    with pytest.raises(QueryError, match=r"."):
        database.sql(statement)
    assert Path(part).read_bytes() == before
    assert database.tables() == names
    assert sorted(Path(part).parent.iterdir()) == sorted(Path(p) for p in store.part_paths("trials"))
    assert database.sql("SELECT count(*) FROM sweep").rows == [(1,)]


def test_the_three_ways_of_reading_agree(opened: tuple[Store, Database]) -> None:
    store, database = opened
    assert database.sql("SELECT count(*) AS n FROM trial").rows == [(store.rows("trials"),)]
    expected = {(r["model"], r["placement"]) for r in store.read("points").to_pylist()}
    assert {(r["model"], r["placement"]) for r in database.query("accuracy").to_dicts()} == expected


def test_errors_say_what_there_is(database: Database) -> None:
    with pytest.raises(QueryError, match=r"(?s)nope.*Tables and views: .*trial") as caught:
        database.sql("SELECT * FROM nope")
    offered = str(caught.value).rpartition("views: ")[2].split(", ")
    assert set(offered) == set(database.query("schema").column("table_name"))  # none that only other views need
    with pytest.raises(QueryError, match=r"(?s)acuracy.*accuracy"):
        database.sql("SELECT acuracy FROM trial")
    with pytest.raises(QueryError, match="SELEC"):
        database.sql("SELEC 1")
    with pytest.raises(QueryError, match="one SELECT statement, but got: SELECT, SELECT"):
        database.sql("SELECT 1; SELECT 2")
    with pytest.raises(InputError, match="`limit` must be at least 1, but got 0"):
        database.sql("SELECT 1", limit=0)


def test_a_pivot_lists_its_columns(database: Database) -> None:
    """One that does not creates a type of them first, and would be refused without a word on how to ask."""
    (mean,) = database.sql("SELECT avg(accuracy) FROM point WHERE model = 'resnet8' AND eta = 0.2").rows[0]
    for refused in ("PIVOT point ON eta USING avg(accuracy)", "FROM (pivot point ON eta USING avg(accuracy))"):
        with pytest.raises(
            QueryError, match="but this PIVOT makes a type of the values first: list them, as in"
        ) as told:
            database.sql(refused)
    (example,) = re.findall(r"as in (PIVOT .*) \(eta is", str(told.value))
    assert {"0.1", "0.2"} < set(database.sql(example).to_dicts()[0])
    named = database.sql("PIVOT point ON eta::DOUBLE IN (0.2) USING avg(accuracy) GROUP BY model").to_dicts()
    assert {row["model"]: row["0.2"] for row in named}["resnet8"] == pytest.approx(mean)
    with pytest.raises(QueryError, match="one SELECT statement, but got: CREATE, MULTI"):
        database.sql("CREATE TABLE a (b INT); PIVOT point ON eta USING avg(accuracy)")


@pytest.mark.parametrize(
    ("before", "line"), [("", 1), ("-- mine\n\n", 3), ("/* mine\n*/ ", 2), ("SELECT 1 FROM\n(" + "\n" * 8, 10)]
)
def test_an_error_shows_the_line_of_the_question(database: Database, before: str, line: int) -> None:
    """As it was written, not as it is wrapped; the mark stands below what is wrong."""
    ending = ")" if "(" in before else ""
    with pytest.raises(QueryError, match="nothing") as caught:
        database.sql(f"{before}SELECT nothing FROM trial{ending}")
    excerpt, mark = str(caught.value).splitlines()[-2:]
    assert excerpt.startswith(f"LINE {line}: ")
    assert excerpt.endswith(f"SELECT nothing FROM trial{ending}")
    assert mark == " " * excerpt.index("nothing") + "^" * len("nothing")
    assert "EXPLAIN" not in str(caught.value)


def test_more_rows_than_the_limit_are_cut_and_said_so(database: Database) -> None:
    exact, cut = database.sql("FROM range(5)", limit=5), database.sql("FROM range(6)", limit=5)
    assert (len(exact), exact.truncated) == (5, False)
    assert (len(cut), cut.truncated) == (5, True)
    assert "there are more" in cut.to_text()
    assert [row for (row,) in cut.rows] == list(range(5))


def test_a_long_question_is_stopped(database: Database) -> None:
    start = time.monotonic()
    with pytest.raises(QueryError, match="time limit"):
        database.sql(
            "SELECT count(*) FROM range(10000000) a, range(1000000) b WHERE a.range % 7 = b.range % 11",
            time_limit_s=0.3,
        )
    assert time.monotonic() - start < 20
    assert database.sql("SELECT 1").rows == [(1,)]


def test_unknown_sweep(synthetic_store: Store) -> None:
    with pytest.raises(UnknownNameError, match="unknown sweep 'other'.*synthetic"):
        open_database(synthetic_store, sweep="other")


def test_an_empty_store_answers_with_no_rows(tmp_path: Path) -> None:
    with open_database(Store.create(tmp_path / "store"), threads=1) as database:
        for name in module.QUERIES:
            if name == "schema":
                assert set(SCHEMAS) < set(database.query(name).column("table_name"))
            else:
                assert len(database.query(name)) == 0


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    store.commit(synthetic.tables(trials=2, seeds=1, models=("resnet8",)))
    part = Path(store.part_paths("trials")[0])
    part.write_bytes(part.read_bytes()[:1000])
    with pytest.raises(StoreDamagedError, match=r"trials"):
        open_database(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "IN_MEMORY_ROWS", 0)
        with pytest.raises(StoreDamagedError, match="verify"):
            open_database(store, threads=1).query("accuracy")


def _again(
    tables: dict[str, pa.Table], name: str, *, sha: str, when: int, **changes: object
) -> list[dict[str, object]]:
    stamp = {"spec_sha256": sha, "committed_at": datetime(2026, 2, when, tzinfo=UTC)}
    return [{**row, **stamp, **changes} for row in tables[name].to_pylist()]


def test_a_sweep_is_its_newest_version(tmp_path: Path) -> None:
    """A spec that asks for fewer trials and eta than before gets exactly those, though the rows are all there."""
    tables = synthetic.tables(trials=6, seeds=1, models=("resnet8",), failures=False)
    store = Store.create(tmp_path / "store")
    store.commit(tables)
    points = [r for r in _again(tables, "points", sha="new", when=2) if r["eta"] != synthetic.ETAS[-1]]
    fewer = [{**r, "min_trials": min(r["min_trials"], 2), "max_trials": min(r["max_trials"], 2)} for r in points]
    store.commit(
        {
            "sweeps": pa.Table.from_pylist(
                _again(tables, "sweeps", sha="new", when=2, revision=2), schema=SCHEMAS["sweeps"]
            ),
            "points": pa.Table.from_pylist(fewer, schema=SCHEMAS["points"]),
        }
    )
    with open_database(store, threads=1) as database:
        accuracy = database.query("accuracy").to_dicts()
        (sweep,) = database.query("sweeps").to_dicts()
    assert {row["eta"] for row in accuracy} == {0, 0.01, 0.1, 0.2, 0.3}
    assert {row["n"] for row in accuracy if row["eta"] > 0} == {2}
    assert (sweep["planned"], sweep["done"], sweep["trials"]) == (
        len(fewer),
        len(fewer),
        sum(r["max_trials"] for r in fewer),
    )


def test_two_sweeps_share_rows_and_each_counts_them(tmp_path: Path) -> None:
    tables = synthetic.tables(trials=3, seeds=1, models=("resnet8",), failures=False)
    store = Store.create(tmp_path / "store")
    store.commit(tables)
    for name in ("sweeps", "points"):
        rows = pa.Table.from_pylist(_again(tables, name, sha="b", when=3, sweep="second"), schema=SCHEMAS[name])
        store.commit({name: rows})
    both, one = open_database(store, threads=1), open_database(store, sweep="second", threads=1)
    assert both.sweeps == ("second", "synthetic")
    assert both.query("accuracy").rows == one.query("accuracy").rows  # shared rows are not counted twice
    assert [row["done"] for row in both.query("sweeps").to_dicts()] == [tables["points"].num_rows] * 2


def test_one_network_under_two_labels_is_one_row(tmp_path: Path) -> None:
    """A sweep that calls placements and data otherwise (`first: 7`, a mask) adds an eta to the same networks."""
    tables = synthetic.tables(trials=3, seeds=2, models=("resnet8",), failures=False)
    store = Store.create(tmp_path / "store")
    store.commit(tables)
    masks = {row["placement"]: row["bn_mask"] for row in tables["points"].to_pylist()}
    (partial,) = masks.keys() - {"all", "none"}
    alone = {(row["placement"], row["eta"]): row for row in _accuracy(store)}
    names = {
        "placement": {"all": "first: 7", "none": "sites: []", partial: masks[partial]},
        "dataset": {"digits": "optical-digits"},
    }

    def renamed(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        return [{**row, **{column: new[str(row[column])] for column, new in names.items()}} for row in rows]

    again = {name: _again(tables, name, sha="b", when=3, sweep="second") for name in ("sweeps", "points")}
    trials = [row for row in tables["trials"].to_pylist() if row["eta"] == Decimal("0.4")]
    again["trials"] = renamed(trials)
    again["points"] = renamed(again["points"])
    for row in (*again["trials"], *again["points"]):
        if row["eta"] == Decimal("0.4"):
            row["eta"], row["point_id"] = Decimal("0.5"), f"{row['point_id'][:-1]}-"
    store.commit({name: pa.Table.from_pylist(rows, schema=SCHEMAS[name]) for name, rows in again.items()})

    both = {(row["placement"], row["eta"]): row for row in _accuracy(store)}
    assert set(both) == set(alone) | {("all", 0.5), ("none", 0.5), (partial, 0.5)}
    assert {row["dataset"] for row in both.values()} == {"digits"}
    assert {row["seeds"] for row in both.values()} == {2}
    with open_database(store, threads=1) as database:
        assert {row["eta"] for row in database.query("paired").to_dicts()} == {eta for _, eta in both}
        assert set(database.query("convergence").column("placement")) == {"all", "none", partial}
    with open_database(store, sweep="second", threads=1) as database:  # by itself too
        assert set(database.query("accuracy").column("placement")) == {"all", "none", masks[partial]}


def _accuracy(store: Store) -> list[dict[str, object]]:
    with open_database(store, threads=1) as database:
        return database.query("accuracy").to_dicts()


def test_the_last_attempt_of_a_run_counts(tmp_path: Path) -> None:
    tables = synthetic.tables(trials=2, seeds=1, models=("resnet8",), failures=False)
    failed = [{**r, "status": "failed", "reason": "out of memory", "attempt": 1} for r in tables["runs"].to_pylist()]
    second = [{**r, "attempt": 2} for r in tables["runs"].to_pylist()]
    store = Store.create(tmp_path / "store")
    store.commit({**tables, "runs": pa.Table.from_pylist(failed, schema=SCHEMAS["runs"])})
    with open_database(store, threads=1) as database:
        assert set(database.query("convergence").column("status")) == {"failed"}
    store.commit({"runs": pa.Table.from_pylist(second, schema=SCHEMAS["runs"])})
    with open_database(store, threads=1) as database:
        assert set(database.query("convergence").column("status")) == {"finished"}
        assert len(database.query("convergence")) == 3


def test_coverage_tells_failed_from_missing(database: Database, synthetic_store: Store) -> None:
    rows = database.query("coverage").to_dicts()
    for row in rows:
        assert row["planned"] == row["done"] + row["missing"] + row["diverged"] + row["failed"]
    # The diverged run's six points, and the point whose block was given up (synthetic.py).
    assert [sum(row[state] for row in rows) for state in ("missing", "diverged", "failed")] == [0, 6, 1]
    (status,) = database.query("sweeps").to_dicts()
    assert [status[column] for column in ("diverged_runs", "failed_runs", "diverged", "failed")] == [1, 0, 6, 1]
    assert sum(row["planned"] for row in rows) == synthetic_store.rows("points")
    assert [row["what"] for row in database.query("failures").to_dicts()].count("trials") == 1


def test_paper_and_store_have_the_same_columns(database: Database) -> None:
    with open_paper(threads=1) as paper:
        assert paper.tables() == database.tables()


@pytest.mark.parametrize("size", ["100k", "3m"])  # the second is too small for the end of 4.5 MB alone
def test_a_snapshot_that_does_not_fit_leaves_nothing(tmp_path: Path, size: str) -> None:
    store = Store.create(tmp_path / "store")
    store.commit(synthetic.tables(trials=4))
    with mounted(tmp_path / "disk", size) as disk:
        for _ in range(2):
            with pytest.raises(StoreUnwritableError, match=r"cannot write .*/one\.duckdb.*No space left.*make room"):
                write_snapshot(store, disk / "one.duckdb")
            assert list(disk.iterdir()) == []


def test_an_unknown_name_where_there_is_none_is_told_no_words_as_names(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    with pytest.raises(UnknownNameError, match=r"^unknown sweep 'none'\. There is none yet\.$"):
        open_database(store, sweep="none")
    with open_database(store) as database:
        with pytest.raises(UnknownNameError, match=r"parameter of query sweeps 'model'\. It has none\.$") as caught:
            database.query("sweeps", model="a")
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
