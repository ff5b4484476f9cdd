"""Whatever is asked gives an answer or a clear error, and changes nothing."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnsweep.analysis.database import QUERIES, Database
from bnsweep.analysis.result import Result
from bnsweep.errors import BnsweepError
from bnsweep.store.store import Store
from bnsweep.store.verify import verify

WORDS = """
    SELECT FROM WHERE WITH AS GROUP BY ORDER LIMIT JOIN ON USING UNION ALL VALUES INSERT INTO UPDATE SET DELETE DROP
    TABLE CREATE COPY TO ATTACH EXPORT PRAGMA CALL EXPLAIN ANALYZE RETURNING NULL * ( ) , ; = < > 'x' 1 0.5 -- $a ? [ ]
    { } trials runs sweep points accuracy eta count(*) avg(accuracy) read_csv('/etc/passwd') read_text('/etc/hostname')
    glob('/*') getenv('HOME') range(10) 'out.csv' (FORMAT csv)
"""
SQL = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=14).map(" ".join))
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=12))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=SQL)
def test_any_sql_gives_rows_or_a_clear_error(database: Database, text: str) -> None:
    try:
        result = database.sql(text, limit=50, time_limit_s=5)
    except BnsweepError as error:
        assert str(error)
    else:
        assert isinstance(result, Result)
        assert len(result) <= 50


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_parameter_of_any_query_gives_rows_or_a_clear_error(database: Database, data: st.DataObject) -> None:
    query = data.draw(st.sampled_from(sorted(QUERIES.values(), key=lambda each: each.name)))
    names = [parameter.name for parameter in query.parameters]
    given_names = st.sampled_from([*names, "no_such_parameter"]) if names else st.just("no_such_parameter")
    parameters = data.draw(st.dictionaries(given_names, VALUES, max_size=3))
    try:
        result = database.query(query.name, limit=20, **parameters)
    except BnsweepError as error:
        assert str(error)
    else:
        assert [column.name for column in result.columns] == [column.name for column in query.columns]


def test_nothing_has_changed(database: Database, synthetic_store: Store) -> None:
    """After the two tests above."""
    assert {problem.kind for problem in verify(synthetic_store).problems} <= {"network"}  # it never had any
    assert database.sql("SELECT count(*) FROM trials").rows == [(synthetic_store.rows("trials"),)]
    assert not Path("out.csv").exists()
