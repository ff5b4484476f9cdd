"""What questions in SQL give over the service: every type and form, and what is refused in a line."""

import pytest
import served as helpers

from bnsweep.errors import InputError


def test_answers_of_every_type_can_be_shown(viewer):
    """The types that DuckDB knows, in every form that a console answers in."""
    sql = (
        "SELECT 1::HUGEINT AS a, uuid() AS b, INTERVAL 1 DAY AS c, '101'::BIT AS d, MAP {'x': 1} AS e, "
        "[1, NULL] AS f, {'x': 'y'} AS g, 'NaN'::DOUBLE AS h, 'infinity'::TIMESTAMP AS i, NULL AS j, "
        "'2026-01-01'::DATE AS k, 1.5::DECIMAL(9, 6) AS l, '\\xAA'::BLOB AS m, TIME '12:00' AS n, true AS o, "
        "290000::VARCHAR || '-01-01' AS p, 'a'::ENUM ('a', 'b') AS q"
    )
    for ending in ("json", "csv", "parquet"):
        response = viewer.get(f"/ask.{ending}", params={"sql": sql})
        assert response.status_code in (200, 400), response.text
        if response.status_code == 400:
            assert "cannot be shown" in response.json()["error"]
    page = viewer.get("/ask", params={"sql": sql}, headers={"accept": "text/html"})
    assert page.status_code in (200, 400)


@pytest.mark.parametrize("path", ["/ask", "/ask.json"])
def test_a_value_that_cannot_be_shown_is_said(viewer, path):
    """Python's dates end with the year 9999."""
    question = "SELECT DATE '20000-01-01' AS d, 1 AS a"
    answer = viewer.get(path, params={"sql": question, "view": "chart"}, headers={"accept": "text/html"})
    assert answer.status_code == 400
    assert "a value of the answer cannot be shown" in answer.text


def test_an_answer_without_rows_has_its_columns(served, viewer, tokens):
    from bnsweep.service.client import Client

    question = {"sql": "SELECT model, eta FROM trial WHERE false"}
    told = viewer.get("/ask.json", params=question).json()
    assert [column["name"] for column in told["columns"]] == ["model", "eta"]
    assert (told["rows"], told["truncated"]) == ([], False)
    assert viewer.get("/ask.csv", params=question).text.splitlines() == ["model,eta"]
    with Client(served.address, token=tokens["viewer"]) as client:
        assert client.result(question["sql"]).to_csv().splitlines() == ["model,eta"]


def test_columns_of_one_name_are_all_there(served, viewer, tokens):
    """As from a store (test_cli.py)."""
    from bnsweep.service.client import Client

    question = {"sql": "SELECT a.*, b.* FROM (SELECT 1 AS x, 2 AS y) a JOIN (SELECT 1 AS x, 3 AS y) b ON a.x = b.x"}
    wanted = {"x": 1, "y": 2, "x_1": 1, "y_1": 3}
    assert viewer.get("/ask.json", params=question).json()["rows"] == [wanted]
    assert viewer.get("/ask.csv", params=question).text == "x,y,x_1,y_1\n1,2,1,3\n"
    with Client(served.address, token=tokens["viewer"]) as client:
        assert client.sql(question["sql"]) == [wanted]


def test_an_empty_question_is_refused_as_by_a_store(served, tokens):
    from bnsweep.service.client import Client

    with Client(served.address, token=tokens["viewer"]) as client:
        for empty in ("", " \n", "-- nothing"):
            with pytest.raises(InputError, match="a question is one SELECT statement, but got: none"):
                client.sql(empty)


def test_who_shows_no_token_or_a_wrong_one_is_told_where_to_give_it(served):
    question = ("query", "--sql", "SELECT 1 AS a", "--server", served.address)
    for wrong in ({}, {"BNSWEEP_TOKEN": "bnsweep-00000000-guessed"}):
        done = helpers.bnsweep(*question, **wrong)
        assert done.returncode == 2
        assert "(401). A token that is valid there is given with --token or in BNSWEEP_TOKEN" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_limit_of_one_s_own_is_not_blamed_on_the_service(served, tokens):
    asking = {"BNSWEEP_TOKEN": tokens["viewer"]}
    few = ("query", "--sql", "SELECT range AS a FROM range(7)", "--server", served.address, "--format", "csv")
    done = helpers.bnsweep(*few, "--limit", 5, **asking)
    assert done.stdout.split() == ["a", "0", "1", "2", "3", "4"]
    assert (
        done.stderr
        == "bnsweep: only the first 5 rows; there are more: without --limit all come that the service gives\n"
    )
    many = (*few[:2], "SELECT range AS a FROM range(10001)", *few[3:])  # `sql_rows` is 10,000
    for limit in ((), ("--limit", 10_000), ("--limit", 20_000)):
        said = helpers.bnsweep(*many, *limit, **asking).stderr
        assert "only the first 10,000 rows; there are more: a service cuts at its `sql_rows`" in said


def test_a_name_that_is_not_there_is_refused(viewer):
    answer = viewer.get("/ask/schema.json", params={"table": "pont"})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("parameter table: unknown table or view 'pont'. Did you mean 'point'?")
    assert viewer.get("/ask/paired_sweeps.json").json()["rows"] == []  # for want of a sweep
