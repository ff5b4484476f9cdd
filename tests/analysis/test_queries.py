"""Every question: what its header says is what comes out, on the paper's tables and on a store."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from bnsweep.analysis.database import QUERIES, Database, find_query, open_paper
from bnsweep.analysis.queries import View, described_views, parse_query, views
from bnsweep.errors import InputError, UnknownNameError
from bnsweep.store.schema import SCHEMAS

UNITS = {"", "%", "points", "fraction", "runs", "trials", "sites", "images", "levels", "classes", "epochs", "nats", "s"}
UNITS |= {"times", "UTC", "parameters", "placements"}


@pytest.fixture(scope="module")
def paper() -> Database:
    return open_paper(threads=1)


@pytest.mark.parametrize("name", QUERIES)
def test_columns_are_those_of_the_header(name: str, paper: Database, database: Database) -> None:
    declared = [column.name for column in QUERIES[name].columns]
    for source in (paper, database):
        result = source.query(name)
        assert result.table.column_names == declared
        assert [column.name for column in result.columns] == declared
        # DuckDB sums integers to decimals, which JSON has not.
        assert not any(pa.types.is_decimal(kind) for kind in result.table.schema.types)


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_is_named_ctes_ending_in_final(name: str) -> None:
    sql = QUERIES[name].sql
    assert QUERIES[name].question.endswith("?")
    assert re.search(r"^final AS \(", sql, re.MULTILINE)
    assert re.search(r"^SELECT \* (EXCLUDE \(\w+\) )?FROM final$", sql, re.MULTILINE)
    assert {column.unit for column in QUERIES[name].columns} <= UNITS
    assert max(map(len, sql.splitlines())) <= 120
    used = set(re.findall(r"\$(\w+)", sql))
    assert used == {parameter.name for parameter in QUERIES[name].parameters}


def test_every_figure_that_is_a_mean_has_n_and_interval(database: Database) -> None:
    for name in ("accuracy", "normalized", "average_normalized", "tradeoff", "depth_trend"):
        for row in database.query(name).to_dicts():
            assert row["n"] >= row["seeds"] >= 1
            assert (row["low_pct"] is None) == (row["level"] is None) == (row["half_width_pct"] is None)


@pytest.mark.parametrize("name", sorted(set(QUERIES) - {"convergence", "epochs", "runs"}))
def test_a_seed_that_diverged_spoils_no_mean(name: str, database: Database) -> None:
    """Its loss is NaN, in the store of conftest.py; only questions about single runs tell of it."""
    columns = database.query(name).table.columns
    assert not any(pc.any(pc.is_nan(column)).as_py() for column in columns if pa.types.is_floating(column.type))


@pytest.mark.parametrize("view", described_views(), ids=lambda view: view.name)
def test_views_have_the_columns_that_their_header_describes(view: View, database: Database, paper: Database) -> None:
    """Each column that DuckDB says is there, and no other; `schema` tells of each."""
    there = [name for (name,) in database.sql(f"SELECT column_name FROM (DESCRIBE {view.name})").rows]
    assert {column.name for column in view.columns} <= set(there)
    assert {column.unit for column in view.columns} <= UNITS
    for source in (database, paper):
        told = source.query("schema", table=view.name).to_dicts()
        assert [row["column_name"] for row in told] == there
        assert all(row["meaning"] for row in told)
        own = {row["column_name"]: (row["unit"], row["meaning"]) for row in told}
        assert own == {**own, **{column.name: (column.unit, column.meaning) for column in view.columns}}
    assert view.meaning
    assert view.behind


def test_the_schema_tells_of_tables_and_views_alike(database: Database) -> None:
    told = set(database.query("schema").column("table_name"))
    assert told == {*SCHEMAS, *(view.name for view in described_views())}
    assert {"run", "point", "curve", "trial"} <= told <= set(database.tables())
    (n,) = (row for row in database.query("schema", table="curve").to_dicts() if row["column_name"] == "run_id")
    assert n["meaning"] == "digest of everything that influences the network's weights"  # as in table runs


def test_views_are_within_the_line_length() -> None:
    assert max(map(len, views().splitlines())) <= 120


def test_parameters_narrow_the_answer(database: Database) -> None:
    result = database.query("accuracy", model="resnet8", confidence="0.5")
    assert set(result.column("model")) == {"resnet8"}
    wide = database.query("accuracy", model="resnet8")
    # Student's t with one degree of freedom is the Cauchy distribution: quantiles tan(pi c / 2), here 1 and 12.706.
    ratio = [w / n for w, n in zip(wide.column("half_width_pct"), result.column("half_width_pct"), strict=True) if n]
    assert ratio == pytest.approx([12.7062047] * len(ratio))


def test_unknown_names_are_told_with_the_valid_ones(database: Database) -> None:
    with pytest.raises(UnknownNameError, match="unknown query 'acuracy'.*Did you mean 'accuracy'"):
        find_query("acuracy")
    with pytest.raises(UnknownNameError, match="unknown parameter of query accuracy 'seed'.*confidence"):
        database.query("accuracy", seed=1)
    for ours in ("name", "self", "limit", "time_limit_s"):  # of a stranger's, who does not know what we call ours
        with pytest.raises(UnknownNameError, match=f"unknown parameter of query accuracy '{ours}'.*confidence"):
            database.query("accuracy", {ours: "3"})
    with pytest.raises(UnknownNameError, match=r"'model'\. It has none\."):
        database.query("sweeps", model="x")
    with pytest.raises(InputError, match="`0 < confidence < 1` must hold, but got 1.5"):
        database.query("accuracy", confidence=1.5)
    with pytest.raises(InputError, match="must be a number, but got 'high'"):
        database.query("accuracy", confidence="high")


def test_the_readme_s_sql_pools_nothing_that_differs(database: Database) -> None:
    """Its means are those of query accuracy, one for each network, placement and noise cell."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (sql,) = re.findall(r'bnsweep query --sql "([^"]+)"', readme)
    means = {row[:-1]: 100 * row[-1] for row in database.sql(sql).rows}
    cell = ("dataset", "training", "model", "placement", "targets", "bn_treatment", "eta")
    rows = database.query("accuracy").to_dicts()
    assert {tuple(map(str, key[:-1])) for key in means} == {tuple(row[name] for name in cell[:-1]) for row in rows}
    for row in rows:
        key = (*(row[name] for name in cell[:-1]), Decimal(str(row["eta"])).quantize(Decimal("0.000001")))
        assert means.pop(key) == pytest.approx(row["accuracy_pct"])
    assert not means


def test_a_header_that_is_not_one_is_refused() -> None:
    with pytest.raises(ValueError, match="has no header"):
        parse_query("x", "SELECT 1")
    with pytest.raises(ValueError, match="has 3 fields"):
        parse_query("x", "-- Why?\n--\n-- Parameters\n--   none\n--\n-- Columns\n--   a\nSELECT 1 AS a\n")
