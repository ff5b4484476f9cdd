"""The SQL console under attack: real questions to real processes over a real snapshot. Nothing may be written, read or
reached that is not the store's rows, nothing may go on for ever, and the next question must be answered."""

import asyncio
import hashlib
import http.server
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from asking import ENDLESS, ENDLESS_COUNT, ENDLESS_JOIN, ask_all, limits

from bnsweep.errors import QueryError

SECRET = "canary-7f3a"
KINDS = "a question is one SELECT statement"
NOTHING = "file system operations are disabled"
LOCKED = "configuration has been locked|is disabled|disabled by configuration|not exist|cannot be set"
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
    "endless join": (ENDLESS_JOIN, ENDLESS),
    "endless recursion": (
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT max(n) FROM r",
        ENDLESS,
    ),
    "endless count": (ENDLESS_COUNT, ENDLESS),
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
def place(snapshot):
    folder = Path(snapshot.path).parent
    (folder / "canary.csv").write_text(f"a,b\n{SECRET},1\n")
    (folder / "canary.csv").chmod(0o644)
    return folder, snapshot


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
