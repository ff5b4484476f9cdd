"""Answers as LaTeX, with their provenance."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from bnsweep.analysis.database import QUERIES, Database
from bnsweep.analysis.export import LONGEST, export_latex, latex_of
from bnsweep.errors import UnknownNameError
from bnsweep.store.store import Store


def test_every_answer_that_fits_on_paper_is_a_table(synthetic_store: Store, database: Database, tmp_path: Path) -> None:
    *tables, provenance = export_latex(database, synthetic_store, tmp_path)
    assert {path.stem for path in tables} == {name for name in QUERIES if 0 < len(database.query(name)) <= LONGEST}
    assert len(tables) > 10
    record = json.loads(provenance.read_text())
    assert {part["sha256"] for part in record["parts"]} == {part.sha256 for part in synthetic_store.parts()}
    assert len(record["specs"]) == 1
    for path in tables:
        text = path.read_text()
        comments, _, table = text.partition("\\begin{tabular}")
        assert all(line.startswith("% ") for line in comments.splitlines())
        assert QUERIES[path.stem].question in comments
        columns = len(table[1 : table.index("}")])
        body = table[table.index("\\midrule") : table.index("\\bottomrule")].splitlines()[1:]
        answer = database.query(path.stem)
        assert len(body) == len(answer) == record["files"][path.name]["rows"]
        assert all(line.replace(r"\&", "").count("&") == columns - 1 for line in body)
        assert record["files"][path.name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert record["files"][path.name]["sql_sha256"] == hashlib.sha256(answer.sql.encode()).hexdigest()


def test_what_all_rows_have_in_common_is_a_comment(synthetic_store: Store, database: Database, tmp_path: Path) -> None:
    path, _ = export_latex(database, synthetic_store, tmp_path, names=["accuracy"])
    comments, _, table = path.read_text().partition("\\begin{tabular}")
    (line,) = (line for line in comments.splitlines() if line.startswith("% in every row: "))
    told = dict(each.split(" = ") for each in line.removeprefix("% in every row: ").split(", "))
    expected = {"dataset": "digits", "noise_model": "gaussian", "sigma_reference": "tensor_std", "precision": "fp32"}
    assert told.items() >= expected.items()
    head = table[table.index("\\toprule") : table.index("\\midrule")].replace("\\_", "_")
    for column in database.query("accuracy").columns:
        assert (column.name in told) != bool(re.search(rf"\b{column.name}\b", head)), column.name


def test_answers_asked_for_by_name(synthetic_store: Store, database: Database, tmp_path: Path) -> None:
    paths = export_latex(database, synthetic_store, tmp_path, names=["timeline", "accuracy"])
    assert [path.name for path in paths] == ["timeline.tex", "accuracy.tex", "provenance.json"]
    with pytest.raises(UnknownNameError, match="unknown query 'acuracy'. Did you mean 'accuracy'"):
        export_latex(database, synthetic_store, tmp_path, names=["acuracy"])


def test_the_latex_of_an_answer_has_only_columns_that_tell_rows_apart(database: Database) -> None:
    answer = database.query("pareto")
    comments, _, table = latex_of(answer).partition("\\begin{tabular}")
    assert "noise_model = gaussian" in comments
    assert "noise" not in table
    assert table[1 : table.index("}")].strip("lr") == ""
    assert len(table[1 : table.index("}")]) < len(answer.columns)
