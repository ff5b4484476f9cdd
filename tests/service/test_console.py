"""The SQL console under attack: real questions to real processes over a real snapshot. Nothing may be written, read or
reached that is not the store's rows, nothing may go on for ever, and the next question must be answered."""

import asyncio
import hashlib
import http.server
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import served as helpers

from bnsweep.analysis.reader import build
from bnsweep.errors import InputError, QueryError
from bnsweep.service.console import BusyError, Console
from bnsweep.service.rows import Snapshot
from bnsweep.service.settings import Settings

SECRET = "canary-7f3a"
KINDS = "a question is one SELECT statement"
NOTHING = "file system operations are disabled"
LOCKED = "configuration has been locked|is disabled|disabled by configuration|not exist|cannot be set"
ENDLESS = "time limit|memory limit|took too much"
READ_ONLY = "read-only|only reads"
SYNTAX = "Parser Error|Binder Error|Catalog Error|Invalid Input|Not implemented"

# name: (SQL, what the refusal says). {file} holds SECRET, {new} is a path that does not exist, {port} listens.
REFUSED = {
    "insert": ("INSERT INTO trials SELECT * FROM trials", KINDS),
    "insert in a CTE": ("WITH x AS (INSERT INTO scope VALUES ('x') RETURNING *) SELECT * FROM x", READ_ONLY),
    "delete in a CTE": ("WITH x AS (DELETE FROM trials RETURNING *) SELECT count(*) FROM x", READ_ONLY),
    "update in a CTE": ("WITH x AS (UPDATE runs SET status = 'x' RETURNING *) SELECT * FROM x", READ_ONLY),
    "insert in a nested CTE": (
        "SELECT * FROM (WITH y AS (WITH x AS (INSERT INTO scope VALUES ('x') RETURNING *) FROM x) FROM y)",
        f"{READ_ONLY}|{SYNTAX}",
    ),
    "delete": ("DELETE FROM trials", KINDS),
    "update": ("UPDATE trials SET accuracy = 1", KINDS),
    "truncate": ("TRUNCATE trials", KINDS),
    "merge": ("MERGE INTO trials USING runs ON true WHEN MATCHED THEN DELETE", KINDS),
    "create table": ("CREATE TABLE x AS SELECT 1", KINDS),
    "create temp table": ("CREATE TEMP TABLE x AS SELECT 1", KINDS),
    "create view": ("CREATE OR REPLACE VIEW trial AS SELECT 1", KINDS),
    "create macro": ("CREATE OR REPLACE MACRO t_quantile(a, b) AS 0", KINDS),
    "create schema": ("CREATE SCHEMA x", KINDS),
    "create secret": ("CREATE SECRET x (TYPE s3, KEY_ID 'a', SECRET 'b')", f"{KINDS}|{SYNTAX}|{LOCKED}"),
    "drop": ("DROP TABLE trials", KINDS),
    "alter": ("ALTER TABLE trials RENAME TO x", KINDS),
    "comment on": ("COMMENT ON TABLE trials IS 'x'", KINDS),
    "copy to": ("COPY trials TO '{new}'", KINDS),
    "copy to a program": ("COPY trials TO '/dev/stdout'", KINDS),
    "explain analyze copy": ("EXPLAIN ANALYZE COPY (SELECT 1) TO '{new}'", KINDS),
    "explain analyze insert": ("EXPLAIN ANALYZE INSERT INTO scope VALUES ('x')", KINDS),
    "copy in a CTE": (
        "WITH x AS (COPY (SELECT 1) TO '{new}' (RETURN_FILES)) SELECT * FROM x",
        f"{READ_ONLY}|{SYNTAX}|{NOTHING}",
    ),
    "copy over the snapshot": (
        "WITH x AS (COPY (SELECT 1) TO '{snapshot}' (USE_TMP_FILE false)) SELECT * FROM x",
        f"{READ_ONLY}|{SYNTAX}|{NOTHING}",
    ),
    "copy from": ("COPY scope FROM '{file}'", KINDS),
    "export": ("EXPORT DATABASE '{new}'", KINDS),
    "import": ("IMPORT DATABASE '{new}'", f"{KINDS}|{SYNTAX}|{NOTHING}"),
    "pivot into": ("PIVOT trials ON placement USING count(*); DROP TABLE trials", KINDS),
    "two statements": ("SELECT 1; SELECT 2", KINDS),
    "a second one behind a comment": ("SELECT 1 /* ; */; DROP TABLE trials --", KINDS),
    "none": ("   -- nothing\n;", KINDS),
    "begin": ("BEGIN; COMMIT", KINDS),
    "commit": ("COMMIT", KINDS),
    "prepare": ("PREPARE x AS SELECT 1", KINDS),
    "execute": ("EXECUTE x", f"{KINDS}|{SYNTAX}"),
    "a parameter": ("SELECT $a", "a question has no parameters, but got: a"),
    "attach a file": ("ATTACH '{new}' AS x", KINDS),
    "attach memory": ("ATTACH ':memory:' AS x", KINDS),
    "attach the snapshot": ("ATTACH '{snapshot}' AS x (READ_WRITE)", KINDS),
    "detach": ("DETACH snapshot", KINDS),
    "use": ("USE memory", KINDS),
    "install": ("INSTALL httpfs", KINDS),
    "load": ("LOAD httpfs", KINDS),
    "load a library": ("LOAD '{file}'", KINDS),
    "force install": ("FORCE INSTALL spatial FROM 'http://127.0.0.1:{port}'", f"{KINDS}|{SYNTAX}"),
    "read a CSV file": ("SELECT * FROM read_csv('{file}')", NOTHING),
    "read a text file": ("SELECT * FROM read_text('{file}')", NOTHING),
    "read a binary file": ("SELECT * FROM read_blob('{file}')", NOTHING),
    "read a JSON file": ("SELECT * FROM read_json('{file}')", f"{NOTHING}|{SYNTAX}"),
    "read a Parquet file": ("SELECT * FROM read_parquet('{file}')", f"{NOTHING}|{SYNTAX}"),
    "a file as a table": ("SELECT * FROM '{file}'", f"{NOTHING}|{SYNTAX}"),
    "a file through query_table": ("SELECT * FROM query_table('{file}')", f"{NOTHING}|{SYNTAX}"),
    "a file through query": ("SELECT * FROM query('FROM read_text(''{file}'')')", NOTHING),
    "sniff": ("FROM sniff_csv('{file}')", NOTHING),
    "Parquet's metadata": ("FROM parquet_metadata('{file}')", f"{NOTHING}|{SYNTAX}"),
    "glob": ("FROM glob('/etc/*')", NOTHING),
    "the environment as a file": ("SELECT * FROM read_text('/proc/self/environ')", NOTHING),
    "standard input": ("SELECT * FROM read_csv('/dev/stdin')", NOTHING),
    "the environment": ("SELECT getenv('HOME')", "Catalog Error"),
    "HTTP": ("SELECT * FROM read_csv('http://127.0.0.1:{port}/x.csv')", f"{NOTHING}|{LOCKED}|httpfs"),
    "HTTP in a subquery": (
        "SELECT (SELECT content FROM read_text('http://127.0.0.1:{port}/' || {secret}))",
        f"{NOTHING}|{LOCKED}|httpfs|{SYNTAX}",
    ),
    "S3": ("SELECT * FROM read_parquet('s3://bucket/x')", f"{NOTHING}|{LOCKED}|httpfs|{SYNTAX}"),
    "SQLite": ("SELECT * FROM sqlite_scan('{file}', 'x')", f"{NOTHING}|{SYNTAX}"),
    "Postgres": ("FROM postgres_scan('host=127.0.0.1', 'public', 'x')", f"{NOTHING}|{SYNTAX}"),
    "set": ("SET memory_limit = '100GB'", KINDS),
    "set global": ("SET GLOBAL enable_external_access = true", KINDS),
    "reset": ("RESET lock_configuration", KINDS),
    "set variable": ("SET VARIABLE x = 1", KINDS),
    "pragma": ("PRAGMA enable_profiling", f"{KINDS}|{LOCKED}"),
    "pragma with a value": ("PRAGMA memory_limit = '100GB'", f"{KINDS}|{LOCKED}"),
    "call": ("CALL pragma_version()", KINDS),
    "logging to a file": (
        "FROM enable_logging(storage = 'file', storage_config = {{'path': '{new}'}})",
        f"{SYNTAX}|{LOCKED}|{NOTHING}|{READ_ONLY}",
    ),
    "profiling to a file": ("FROM enable_profiling(save_location = '{new}')", f"{SYNTAX}|{LOCKED}|{NOTHING}"),
    "a Python variable": ("SELECT * FROM question", "Catalog Error"),
    "another Python variable": ("SELECT * FROM reader", "Catalog Error"),
    "Python's modules": ("SELECT * FROM sys", "Catalog Error"),
    "endless join": ("SELECT count(*) FROM trials a, trials b, trials c, trials d WHERE a.accuracy > b.eta", ENDLESS),
    "endless recursion": (
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r",
        ENDLESS,
    ),
    "endless count": ("SELECT sum(i * i % 7) FROM range(1000000000000) t(i)", ENDLESS),
    "endless sort": (
        "SELECT max(x) FROM (SELECT hash(i) AS x FROM range(3000000000) t(i) ORDER BY 1 LIMIT 1e9)",
        ENDLESS,
    ),
    "a long string": ("SELECT length(repeat('x', 4000000000))", f"{ENDLESS}|{SYNTAX}|Out of Range"),
    "long strings": ("SELECT max(repeat('x', 1000000) || i) FROM range(100000000) t(i)", ENDLESS),
    "a long list": ("SELECT range(1000000000)", ENDLESS),
    "many groups": ("SELECT count(*) FROM (SELECT i, count(*) FROM range(2000000000) t(i) GROUP BY i)", ENDLESS),
    "nested lists": ("SELECT list(list_value(i::VARCHAR, repeat('y', 1000))) FROM range(100000000) t(i)", ENDLESS),
    "a deep expression": ("SELECT " + "(" * 6000 + "1" + ")" * 6000, SYNTAX),
    "a deep sum": ("SELECT " + "+".join(["1"] * 9000), f"{SYNTAX}|{ENDLESS}"),
    "a wide answer": ("SELECT repeat('x', 3000) AS a, i FROM range(100000) t(i)", "larger than 2,000,000 bytes"),
    "a very wide row": ("SELECT repeat('x', 30000000)", f"larger than 2,000,000 bytes|{ENDLESS}"),
    "no UTF-8": ("SELECT '\ud800'", "."),
    "a null character": ("SELECT 1\x00; DROP TABLE trials", f"{KINDS}|{SYNTAX}"),
}
# What is answered and harms nobody.
HARMLESS = {
    "the settings": "SELECT name, value FROM duckdb_settings()",
    "the databases": "SELECT database_name FROM duckdb_databases()",
    "secrets": "SELECT * FROM duckdb_secrets()",
    "many rows": "SELECT * FROM range(1000000000000)",
    "a join that merges": "SELECT count(*) AS n FROM runs a, runs b WHERE a.train_seed > b.epochs",
    "SQL in SQL": "SELECT * FROM query('SELECT count(*) FROM trials')",
    "a semicolon": "SELECT ';' AS a;",
}


@pytest.fixture(scope="module")
def place(rows_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("console")
    seq, _ = build(str(rows_store), str(folder / "snapshot.duckdb"))
    (folder / "canary.csv").write_text(f"a,b\n{SECRET},1\n")
    (folder / "canary.csv").chmod(0o644)
    return folder, Snapshot(str(folder / "snapshot.duckdb"), seq)


@contextmanager
def listening():
    """A server that counts who calls."""
    calls = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            calls.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port, calls
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def limits(**given):
    return Settings({"sql_seconds": 1, "sql_rows": 1000, "sql_bytes": 2_000_000, "sql_memory_mb": 128, **given}.items())


def always(snapshot):
    """What a console asks for the newest snapshot."""

    async def newest():
        return snapshot

    return newest


async def ask_all(snapshot, questions, settings):
    console = Console(settings)

    async def one(sql):
        begin = time.monotonic()
        try:
            return await console.ask(always(snapshot), sql), time.monotonic() - begin
        except QueryError as error:
            return error, time.monotonic() - begin

    try:
        return await asyncio.gather(*(one(sql) for sql in questions))
    finally:
        await console.close()


def state_of(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def answers(place):
    """Every attack once, two at a time; and that they left no trace."""
    folder, snapshot = place
    before = state_of(folder)
    with listening() as (port, calls):
        known = {
            "file": folder / "canary.csv", "new": folder / "written", "snapshot": snapshot.path, "port": port,
            "secret": "current_setting('threads')",
        }  # fmt: skip
        asked = {name: sql.format(**known) if "{" in sql else sql for name, (sql, _) in REFUSED.items()}
        everything = {**asked, **HARMLESS, "still there": "SELECT count(*) AS n FROM trials"}
        waiting = limits(sql_waiting_s=300)
        found = asyncio.run(ask_all(snapshot, everything.values(), waiting))
    assert state_of(folder) == before
    assert calls == []
    return dict(zip(everything, found, strict=True))


def test_there_are_more_than_sixty_attacks():
    assert len(REFUSED) >= 60


@pytest.mark.parametrize("name", REFUSED)
def test_an_attack_is_refused(answers, name):
    import re

    said, _ = answers[name]
    assert isinstance(said, QueryError), said.to_text()
    assert re.search(REFUSED[name][1], str(said)), str(said)
    assert SECRET not in str(said)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_harms_nobody_is_answered(answers, name):
    said, _ = answers[name]
    assert not isinstance(said, QueryError), said
    assert SECRET not in said.to_text()
    assert len(said) <= 1000
    if name == "many rows":
        assert said.truncated
    if name == "secrets":
        assert len(said) == 0
    if name == "the settings":
        values = dict(zip(said.column("name"), said.column("value"), strict=True))
        assert values["enable_external_access"] == "false"
        assert values["lock_configuration"] == "true"


def test_the_next_question_is_answered(answers):
    said, _ = answers["still there"]
    assert said.column("n")[0] > 1000


def test_questions_wait_for_their_turn_and_are_sent_away_when_it_takes_too_long(place):
    _, snapshot = place
    endless = REFUSED["endless count"][0]
    settings = limits(sql_at_once=1, sql_waiting_s=0.5, sql_seconds=2)
    found = asyncio.run(ask_all(snapshot, [endless] * 3, settings))
    kinds = sorted(type(said).__name__ for said, _ in found)
    assert kinds == ["BusyError", "BusyError", "QueryError"]
    with pytest.raises(BusyError, match="too many questions"):
        raise next(said for said, _ in found if isinstance(said, BusyError))


def test_with_no_time_to_wait_a_free_turn_is_taken(place):
    _, snapshot = place
    settings = limits(sql_at_once=1, sql_waiting_s=0)
    (first, _), (second, _) = asyncio.run(ask_all(snapshot, ["SELECT 1 AS a", "SELECT 2 AS a"], settings))
    assert first.column("a") == [1]
    assert isinstance(second, BusyError)


def test_a_question_is_answered_from_what_is_newest_when_its_turn_comes(place, tmp_path):
    """Of the snapshots a few are kept: the one of the moment when a question began to wait may be deleted."""
    _, snapshot = place
    known = [Snapshot(str(tmp_path / "deleted.duckdb"), 0)]

    async def newest():
        return known[-1]

    async def ask():
        console = Console(limits(sql_at_once=1, sql_waiting_s=60))
        try:
            first = asyncio.create_task(console.ask(always(snapshot), REFUSED["endless count"][0]))
            second = asyncio.create_task(console.ask(newest, "SELECT 1 AS a"))
            await asyncio.sleep(0.2)
            known.append(snapshot)
            with pytest.raises(QueryError, match=ENDLESS):
                await first
            return (await second).column("a")
        finally:
            await console.close()

    assert asyncio.run(ask()) == [1]


def consoles(pid):
    """Processes of questions below a service."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if parent == str(pid) and b"bnsweep.analysis.console" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


has_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")


@has_proc
def test_questions_at_once_leave_one_process_for_the_next(place):
    _, snapshot = place

    async def ask():
        console = Console(limits(sql_at_once=2, sql_seconds=60))
        try:
            await asyncio.gather(*(console.ask(always(snapshot), "SELECT 1 AS a") for _ in range(2)))
            return len(consoles(os.getpid()))
        finally:
            await console.close()

    assert asyncio.run(ask()) == 1
    assert not consoles(os.getpid())


@has_proc
@pytest.mark.parametrize("error", [BlockingIOError(11, "Resource temporarily unavailable"), asyncio.CancelledError()])
def test_a_process_that_cannot_be_started_for_the_next_question_costs_none(place, monkeypatch, caplog, error):
    """Neither this question's process, which is there, nor its answer."""
    _, snapshot = place
    start, started = asyncio.create_subprocess_exec, []

    async def second_fails(*command, **options):
        started.append(command)
        if len(started) == 2:
            raise error
        return await start(*command, **options)

    async def ask():
        console = Console(limits(sql_at_once=2, sql_seconds=60))
        try:
            if isinstance(error, asyncio.CancelledError):
                with pytest.raises(asyncio.CancelledError, match="^$"):
                    await console.ask(always(snapshot), "SELECT 2 AS a")
            return await console.ask(always(snapshot), "SELECT 1 AS a")
        finally:
            await console.close()

    monkeypatch.setattr(asyncio, "create_subprocess_exec", second_fails)
    assert asyncio.run(ask()).to_dicts() == [{"a": 1}]
    assert not consoles(os.getpid())
    assert ("Resource temporarily unavailable" in caplog.text) == isinstance(error, OSError)


@has_proc
def test_who_hangs_up_ends_the_question(served, tokens):
    """A browser that is closed in the middle leaves no process behind."""
    import httpx

    with served.client(tokens["viewer"]) as client:
        client.get("/ask.json", params={"sql": "SELECT 1"})
        with pytest.raises(httpx.ReadTimeout, match="timed out"):
            client.get("/ask.json", params={"sql": REFUSED["endless join"][0]}, timeout=0.3)
        deadline = time.monotonic() + 1.8  # before the time limit of 2 s would have ended it
        while len(consoles(served.process.pid)) > 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(consoles(served.process.pid)) <= 1  # the one that waits for the next question
        assert client.get("/ask.json", params={"sql": "SELECT 1 AS a"}).json()["rows"] == [{"a": 1}]


def test_a_question_s_process_holds_no_secret(served, tokens):
    with served.client(tokens["viewer"]) as client:
        client.get("/ask.json", params={"sql": "SELECT 1"})
    for pid in consoles(served.process.pid):
        assert b"HOME" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert os.environ.get("HOME")


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
