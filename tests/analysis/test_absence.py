"""What is said of a named question without rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnsweep.analysis import absence
from bnsweep.analysis.absence import NAMES, OF_QUERY, about, refuse_misnamed, why_empty
from bnsweep.analysis.database import QUERIES, Database, open_database, open_paper
from bnsweep.errors import InputError
from bnsweep.store.store import Store


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("paired", {"b": "noone"}, "parameter b: unknown placement 'noone'. Did you mean 'none'? Valid: all, "),
        ("paired_sweeps", {}, "query paired_sweeps needs --param a=NAME, a sweep. Valid: synthetic"),
        ("paired_sweeps", {"a": "synthetic"}, "query paired_sweeps needs --param b=NAME, a sweep. Valid: synthetic"),
        ("schema", {"table": "pont"}, "unknown table or view 'pont'. Did you mean 'point'?"),
        ("accuracy", {"model": "resnet44"}, "parameter model: unknown network 'resnet44'. Valid: resnet20, resnet8"),
        ("draws", {"bn_treatment": "fold"}, "parameter bn_treatment: unknown treatment of BN 'fold'"),
        ("task_complexity", {}, "for model = NULL, confidence = 0.95; `bnsweep query task_complexity --show-sql`"),
        ("task_complexity", {"model": "resnet8"}, "model = 'resnet8', confidence = 0.95; .*on several data sets"),
    ],
)
def test_a_value_that_is_no_name_is_told_with_those_there_are(
    name: str, given: dict[str, str], said: str, database: Database
) -> None:
    assert not len(database.query(name, **given))
    text = " ".join(why_empty(database, name, given))
    before, _, after = said.partition(".*")
    assert before in text
    assert after in text.partition(before)[2]


def test_a_value_that_was_given_and_is_no_name_is_an_error(database: Database) -> None:
    with pytest.raises(InputError, match=r"parameter model: unknown network 'resnet44'. Valid: resnet20, resnet8"):
        refuse_misnamed(database, "accuracy", {"model": "resnet44"})
    refuse_misnamed(database, "accuracy", {"model": "resnet8"})
    refuse_misnamed(database, "paired_sweeps", {"a": "synthetic"})  # lacks one


def test_a_long_list_of_names_is_not_told(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence, "MOST_NAMES", 2)
    (said,) = why_empty(database, "draws", {"run_id": "none"})
    runs = database.sql("SELECT count(DISTINCT run_id) FROM points").rows[0][0]
    assert said.endswith(f"unknown training run 'none'. Valid: the {runs} that `bnsweep query runs` lists")


def test_a_store_without_a_sweep_says_so_and_an_answer_that_should_be_empty_nothing(tmp_path: Path) -> None:
    with open_database(Store.create(tmp_path / "store"), threads=1) as empty:
        (said,) = why_empty(empty, "accuracy", {})
    assert said == f"no rows: no sweep has planned anything in {tmp_path / 'store'} yet"
    with open_paper(threads=1) as paper:
        assert why_empty(paper, "failures", {}) == []  # nothing failed


def test_parameters_that_name_something_are_those_of_queries() -> None:
    """A parameter that is renamed would never be looked at again."""
    assert set(NAMES) <= {each.name for query in QUERIES.values() for each in query.parameters}
    for query, names in OF_QUERY.items():
        assert set(names) <= {each.name for each in QUERIES[query].parameters}
    for name, query in QUERIES.items():
        assert bool(about(name, {})) == bool(query.parameters)
