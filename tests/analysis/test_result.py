"""An answer in each of its forms."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from bnsweep.analysis import result as module
from bnsweep.analysis.queries import Column
from bnsweep.analysis.result import Result
from bnsweep.errors import InputError, UnknownNameError

COLUMNS = (
    Column("model"),
    Column("eta", "fraction", "noise level"),
    Column("accuracy_pct", "%", "mean"),
    Column("spread", "points"),
)


@pytest.fixture
def result() -> Result:
    table = pa.table(
        {
            "model": ["a_1", "a_1", "b & c"],
            "eta": [0.0, 0.01, 0.0],
            "accuracy_pct": [95.0, 61.237, float("nan")],
            "spread": [None, 1.5, None],
        }
    )
    return Result(COLUMNS, table)


def test_text(result: Result) -> None:
    assert result.to_text() == (
        "model       eta  accuracy_pct  spread\n"
        "       fraction             %  points\n"
        "-----  --------  ------------  ------\n"
        "a_1           0         95.00       -\n"
        "a_1        0.01         61.24    1.50\n"
        "b & c         0           nan       -\n"
    )


def test_csv_comes_back(result: Result) -> None:
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert rows[1] == {"model": "a_1", "eta": "0.01", "accuracy_pct": "61.237", "spread": "1.5"}
    assert rows[0]["spread"] == ""


def test_json_is_standard(result: Result) -> None:
    parsed = json.loads(result.to_json())
    assert parsed["columns"][2] == {"name": "accuracy_pct", "unit": "%", "meaning": "mean"}
    assert parsed["rows"][2]["accuracy_pct"] is None  # NaN is no JSON
    assert parsed["truncated"] is False


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_pieces_make_the_same_whole(result: Result, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows a piece has: what is written in pieces is what `json.dumps` makes of all at once."""
    whole = Result((Column('"rows": []'), *COLUMNS[1:]), result.table.slice(0, rows), rows == 2)
    for most in (1, 2, 100):
        monkeypatch.setattr(module, "PIECE_ROWS", most)
        assert whole.to_json() == json.dumps(whole.to_plain(), indent=1)
        assert next(csv.reader(io.StringIO(whole.to_csv()))) == [column.name for column in whole.columns]
        assert whole.to_csv().count("\n") == rows + 1


def test_json_of_other_types() -> None:
    table = pa.table(
        {"a": [Decimal("0.100000")], "b": [datetime(2026, 1, 5, tzinfo=UTC)], "c": [[1, 2]], "d": [b"\x01"]}
    )
    row = json.loads(Result(tuple(map(Column, "abcd")), table).to_json())["rows"][0]
    assert row == {"a": 0.1, "b": "2026-01-05T00:00:00+00:00", "c": [1, 2], "d": "01"}


def test_latex_escapes(result: Result) -> None:
    text = result.to_latex()
    assert r"b \& c & 0 & nan & - \\" in text
    assert r"accuracy\_pct (\%)" in text
    assert text.startswith(r"\begin{tabular}{lrrr}")


def test_arrow_keeps_units(result: Result) -> None:
    assert result.to_arrow().schema.field("accuracy_pct").metadata == {b"meaning": b"mean", b"unit": b"%"}


def test_pivot_marks_what_has_no_interval(result: Result) -> None:
    wide = result.pivot(across="eta", value="accuracy_pct", spread="spread", keep=["model"])
    assert wide.to_dicts() == [
        {"model": "a_1", "eta=0": "95.0 ◦", "eta=0.01": "61.2 ± 1.5"},
        {"model": "b & c", "eta=0": "nan ◦", "eta=0.01": None},
    ]
    with pytest.raises(InputError, match="`keep` must not name"):
        result.pivot(across="eta", value="accuracy_pct", keep=["eta"])


def test_pivot_says_how_many_trials_and_which_figures_stayed_wide() -> None:
    columns = tuple(Column(name) for name in ("model", "eta", "accuracy_pct", "half", "n", "capped"))
    rows = [("a", 0.0, 90.0, None, 1, 0), ("a", 0.1, 80.0, 0.5, 12, 0), ("a", 0.2, 60.0, 2.0, 40, 1)]
    table = pa.table([list(values) for values in zip(*rows, strict=True)], names=[column.name for column in columns])
    wide = Result(columns, table, False, "").pivot(
        across="eta", value="accuracy_pct", spread="half", mark="capped", count="n", keep=["model"]
    )
    assert wide.rows == [("a", "90.0 ◦", "80.0 ± 0.5", "60.0 ± 2.0 †", "12 to 40")]


def test_columns_by_name(result: Result) -> None:
    assert result.select("eta").rows == [(0.0,), (0.01,), (0.0,)]
    same = Result(COLUMNS, result.table.slice(0, 1).take([0, 0])).without_constants()
    assert [column.name for column in same.columns] == ["accuracy_pct"]  # measured, and not empty
    for ask in (result.select, result.column):
        with pytest.raises(UnknownNameError, match="unknown column 'etta'. Did you mean 'eta'"):
            ask("etta")


def test_rows_that_are_all_alike_are_shown() -> None:
    """Without any column that tells them apart there would be no rows to see, three as they are."""
    alike = Result((Column("run_id"), Column("model")), pa.table({"run_id": ["b5"] * 3, "model": ["resnet8"] * 3}))
    assert alike.apart() == (alike, {})
    assert alike.to_text().splitlines()[2:] == ["b5      resnet8"] * 3
    single = alike.first(1)
    assert single.apart() == (single, {})
