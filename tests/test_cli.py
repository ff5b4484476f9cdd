"""The command line as a person meets it: real processes, real stores, no traceback."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_disks import mounted

from bnsweep.analysis.queries import QUERIES
from bnsweep.store.store import Store
from bnsweep.store.verify import verify

SPEC = """\
name: tiny
data: {source: digits, train_images: 200, test_images: 100}
models: resnet8
training: {epochs: 1, batch_size: 50, chance_epochs: null}
noise: {targets: [weights, all]}
eta: [0, 0.3]
trials: 3
"""


def bnsweep(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "bnsweep", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a spec and a store that a sweep was run into."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "tiny.yaml").write_text(SPEC)
    done = bnsweep("run", "tiny.yaml", "--store", "store", "--engine", "inline", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "2 networks trained, 16 trials scored" in done.stdout
    return folder


def ask(work, *arguments):
    done = bnsweep(*arguments, cwd=work)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plan_says_what_is_missing_before_and_after(work):
    guess, before = (
        json.loads(ask(work, "plan", "tiny.yaml", "--store", "nothing-yet", "--json", *more))
        for more in (("--guess",), ())
    )
    assert (before["runs"], before["runs_done"], before["rows_min"], before["rows_done"]) == (2, 0, 16, 0)
    assert before["hours"] > 0
    assert guess["hours"] > 0
    assert "measured now" in before["speeds_from"]
    assert "guessed" in guess["speeds_from"]
    assert "--measure" in guess["speeds_from"]
    after = json.loads(ask(work, "plan", "tiny.yaml", "--store", "store", "--json"))
    assert (after["runs_done"], after["rows_done"], after["hours"]) == (2, 16, 0)
    assert not (work / "nothing-yet").exists()
    assert "2 planned, 2 done, 0 missing" in ask(work, "plan", "tiny.yaml", "--store", "store")


def test_the_plan_of_a_search_is_what_it_does_at_most(work):
    (work / "search.yaml").write_text(SPEC.replace("name: ", "name: find-").rstrip() + "\nsearch: {trainings: 14}\n")
    told = json.loads(ask(work, "plan", "search.yaml", "--store", "nothing-yet", "--guess", "--json"))
    assert (told["runs"], told["runs_missing"], told["rows_min"]) == (14, 14, 14 * 8)
    said = ask(work, "plan", "search.yaml", "--store", "nothing-yet", "--guess")
    assert "note     a search: its `trainings` per network" in said
    assert "note     no store at nothing-yet yet" in said
    refused = bnsweep("plan", "search.yaml", "--part", "1/2", cwd=work)
    assert (refused.returncode, "--part goes with sweeps" in refused.stderr) == (2, True)


def test_status_counts_rows(work):
    status = json.loads(ask(work, "status", "--store", "store", "--json"))
    (sweep,) = status["sweeps"]
    counts = {"planned_runs": 2, "trained": 2, "failed_runs": 0, "planned": 8, "done": 8, "missing": 0, "trials": 16}
    assert {**sweep, **counts, "sweep": "tiny"} == sweep
    assert status["running"] is None


def test_a_query_in_every_format(work):
    rows = json.loads(ask(work, "query", "accuracy", "--store", "store", "--json"))["rows"]
    assert len(rows) == 2 * 2 * 2
    assert ask(work, "query", "accuracy", "--store", "store", "--format", "csv").count("\n") == 9
    assert r"\begin{tabular}" in ask(work, "query", "accuracy", "--store", "store", "--format", "latex")
    ask(work, "query", "accuracy", "--store", "store", "--format", "parquet", "--out", "out.parquet")
    import pyarrow.parquet as pq

    assert pq.read_table(work / "out.parquet").num_rows == 8
    ask(work, "query", "accuracy", "--store", "store", "--format", "csv", "--out", "csv.json")
    ask(work, "query", "accuracy", "--store", "store", "--out", "answer.txt")
    assert (work / "csv.json").read_text().startswith("dataset,model,")  # what is said counts
    assert "in every row: " in (work / "answer.txt").read_text()


def test_sql_of_one_s_own(work):
    sql = "SELECT count(*) AS n, sum(correct) AS correct FROM trials WHERE eta = 0"
    rows = json.loads(ask(work, "query", "--store", "store", "--sql", sql, "--json"))["rows"]
    assert rows[0]["n"] == 4


@pytest.mark.parametrize("limit", [(), ("--limit", "1")])
def test_columns_of_one_name_are_all_there(work, limit):
    """A join's `SELECT *` has many: each is there in every form, under names as DuckDB's own data frames have them."""
    two = ("query", "--store", "store", "--sql", "SELECT 1 AS a, 2 AS a, 3 AS A, 4 AS b", *limit)
    names = ["a", "a_1", "A_2", "b"]
    (row,) = json.loads(ask(work, *two, "--json"))["rows"]
    assert row == dict(zip(names, (1, 2, 3, 4), strict=True))
    assert ask(work, *two, "--format", "csv").splitlines() == [",".join(names), "1,2,3,4"]
    assert ask(work, *two).splitlines()[0].split() == names
    ask(work, *two, "--out", "two.parquet")
    import pyarrow.parquet as pq

    assert pq.read_table(work / "two.parquet").to_pylist() == [row]


def test_no_row_is_cut_without_a_word(work):
    """DuckDB's range() has as many rows as one asks for; 10,000 is where a terminal's answer ends."""
    query = ("query", "--store", "store", "--sql", "SELECT range AS number FROM range(20337)")
    written = {ending: work / f"many.{ending}" for ending in ("csv", "json", "parquet", "tex")}
    for path in written.values():  # whose ending says the format
        done = bnsweep(*query, "--out", path, cwd=work)
        assert (done.returncode, done.stderr) == (0, "")
    assert written["csv"].read_text() == "number\n" + "".join(f"{number}\n" for number in range(20337))
    told = json.loads(written["json"].read_text())
    assert ([row["number"] for row in told["rows"]], told["truncated"]) == (list(range(20337)), False)
    import pyarrow.parquet as pq

    assert pq.read_table(written["parquet"]).num_rows == 20337
    assert written["tex"].read_text().count(r" \\") == 20337 + 1
    assert ask(work, *query, "--format", "csv").count("\n") == 20337 + 1

    shown, fewer = bnsweep(*query, cwd=work), bnsweep(*query, "--format", "csv", "--limit", "5", cwd=work)
    assert "(the first 10000 rows; there are more)" in shown.stdout
    assert "only the first 10,000 rows; there are more" in shown.stderr
    assert fewer.stdout.split() == ["number", "0", "1", "2", "3", "4"]
    assert "only the first 5 rows; there are more: " in fewer.stderr
    named = bnsweep("query", "accuracy", "--store", "store", "--limit", "2", "--json", cwd=work)
    assert len(json.loads(named.stdout)["rows"]) == 2
    assert "only the first 2 rows" in named.stderr


def test_sql_about_one_of_two_sweeps(work, tmp_path):
    """`half` plans half of tiny's points, whose rows say `tiny`: the ways that are named find them, the column not."""
    shutil.copytree(work / "store", tmp_path / "store")
    (tmp_path / "half.yaml").write_text(SPEC.replace("tiny", "half").replace("[weights, all]", "[weights]"))
    ask(tmp_path, "run", "half.yaml", "--store", "store", "--engine", "inline")

    def count(source, *sweep):
        done = bnsweep(
            "query", "--store", "store", *sweep, "--sql", f"SELECT count(*) AS n FROM {source}", "--json", cwd=tmp_path
        )
        return json.loads(done.stdout)["rows"][0]["n"], done.stderr

    half = ("--sweep", "half")
    assert count("trial") == (16, "")
    assert count("trial", *half) == (8, "")
    whole, said = count("trials", *half)
    assert whole == 16
    assert "table trials holds the rows of all sweeps: view trial has those of half" in said
    assert count("trials WHERE sweep = 'half'")[0] == 0
    _, said = count("epochs, (SELECT * FROM runs) AS r", *half)
    for way in ("view run has those", "FROM epochs SEMI JOIN run USING (run_id) has those"):
        assert way in said
    assert count("epochs SEMI JOIN run USING (run_id)", *half)[0] == 2
    refused = bnsweep("query", "--server", "http://127.0.0.1:9", *half, "--sql", "SELECT 1", cwd=tmp_path)
    assert refused.returncode == 2
    (way,) = re.findall(r"WHERE (point_id IN \(SELECT .*\)), of runs", refused.stderr)
    assert count(f"trials WHERE {way}")[0] == 8


def test_a_name_that_no_row_has_is_refused(work):
    done = bnsweep("query", "paired", "--store", "store", "--param", "b=noone", "--json", cwd=work)
    assert (done.returncode, done.stdout) == (2, "")
    told = "parameter b: unknown placement 'noone'. Did you mean 'none'? Valid: all, none"
    assert done.stderr == f"bnsweep: {told}\n"


def test_an_empty_answer_says_why(work):
    done = bnsweep("query", "paired_sweeps", "--store", "store", "--param", "a=tiny", "--json", cwd=work)
    assert (done.returncode, json.loads(done.stdout)["rows"]) == (0, [])
    assert done.stderr.startswith("bnsweep: no rows: query paired_sweeps needs --param b=NAME, a sweep. Valid: ")


def test_the_ending_of_a_file_says_its_form_or_is_refused(work):
    query = ("query", "--store", "store", "--sql", "SELECT 1 AS a")
    for name in ("x.xlsx", "x"):
        done = bnsweep(*query, "--out", name, cwd=work)
        assert done.returncode == 2
        assert done.stderr.startswith("bnsweep: the ending of --out says the form, one of .txt, .csv, .json, .tex, ")
        assert done.stderr.count("\n") == 1
        assert not (work / name).exists()
    ask(work, *query, "--out", "x.dat", "--format", "csv")
    assert (work / "x.dat").read_text() == "a\n1\n"
    ask(work, *query, "--out", "x.txt")
    assert (work / "x.txt").read_text().split() == ["a", "-", "1"]


def test_ctrl_c_ends_a_long_question(work):
    forever = "SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range % 7 = b.range % 11"
    # Tests in the background ignore Ctrl-C, and what they start would too.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heeding}; from bnsweep.cli import main; main()", "query", "--store", "store"]
    asking = subprocess.Popen([*command, "--sql", forever], cwd=work, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while "duckdb" not in Path(f"/proc/{asking.pid}/maps").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(2)  # from the import of DuckDB to the question
        asking.send_signal(signal.SIGINT)
        _, said = asking.communicate(timeout=60)
    finally:
        asking.kill()
        asking.wait()
    assert asking.returncode in (130, -signal.SIGINT), said  # a shell says 130 of both
    assert "bnsweep: interrupted" in said
    assert "Traceback" not in said


def test_questions_are_listed_and_shown(work):
    listed = dict(line.split(maxsplit=1) for line in ask(work, "query").splitlines())
    assert set(listed) == set(QUERIES)
    assert all(question.endswith("?") for question in listed.values())
    assert "WITH" in ask(work, "query", "accuracy", "--show-sql")
    assert ask(work, "query", "--sql", "SELECT 1 / 0", "--show-sql") == "SELECT 1 / 0\n"


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (("acuracy",), "Did you mean 'accuracy'"),
        (("accuracy", "--format", "parquet"), "--format parquet needs --out FILE"),
        (("accuracy", "--param", "limit=3"), "unknown parameter of query accuracy 'limit'"),
        (("accuracy", "--param", "name=x", "--server", "http://127.0.0.1:9"), "unknown parameter of query accuracy"),
    ],
)
def test_a_question_that_cannot_be_answered_opens_no_store(tmp_path, question, why):
    refused = bnsweep("query", *question, "--store", "nowhere", cwd=tmp_path)
    assert refused.returncode == 2
    assert why in refused.stderr


def test_the_report_and_its_figures(work):
    out = ask(work, "report", "--store", "store", "--out", "report.html", "--figures", "figures")
    assert "report: report.html" in out
    assert "<html" in (work / "report.html").read_text()
    kinds = {path.suffix for path in (work / "figures").iterdir()}
    assert {".pdf", ".svg", ".png"} <= kinds


def test_the_store_is_looked_after(work):
    assert "trials" in ask(work, "store", "ls", "--store", "store")
    assert json.loads(ask(work, "store", "verify", "--store", "store", "--json"))["ok"] is True
    shutil.copytree(work / "store", work / "small")
    assert re.search(r"\d+ rows rewritten; 0 files deleted", ask(work, "store", "compact", "--store", "small"))
    ask(work, "store", "export", "exported", "--store", "store")
    assert (work / "exported" / "provenance.json").exists()
    ask(work, "store", "export", "of-one-sweep", "--store", "store", "--format", "csv", "--sweep", "tiny")
    assert (work / "of-one-sweep" / "trials.csv").read_text().count("\n") == 1 + 16


def test_the_claims_of_the_paper_are_judged(work):
    verdicts = json.loads(ask(work, "claims", "--paper", "--json"))
    assert {verdict["verdict"] for verdict in verdicts} <= {"supported", "contradicted", "undecided"}
    assert len(ask(work, "claims", "--store", "store")) > 100


def test_models_are_listed_with_their_sites(work):
    listed = {row["model"]: row for row in json.loads(ask(work, "models", "--json"))}
    assert listed["resnet20"]["bn_sites"] == 1 + 18 + 2  # stem, nine blocks of two, two projections
    one = json.loads(ask(work, "models", "resnet20", "--json"))
    assert len(one["sites"]) == 21


def test_a_ready_sweep_is_listed_and_printed_to_begin_with(work):
    listed = dict(line.split(maxsplit=1) for line in ask(work, "spec").splitlines())
    assert listed == json.loads(ask(work, "spec", "--json"))
    assert listed["quickstart"].startswith("BN everywhere against no BN on 1,797 real handwritten digits")
    (work / "mine.yaml").write_text(ask(work, "spec", "quickstart"))
    assert "9 planned, 0 done" in ask(work, "plan", "mine.yaml", "--guess", "--store", "nothing-yet")


def test_keys_of_sweep_files_are_explained(work):
    every = [key["name"] for key in json.loads(ask(work, "spec", "--keys", "--json"))]
    some = ask(work, "spec", "--keys", "evaluation").splitlines()
    assert [line for line in some if line[0] != " "] == [
        "evaluation",
        "evaluation.precision: fp32",
        "evaluation.batch_size: 250",
    ]
    assert "    fp32 | bf16" in some
    assert {"trials", "trials.half_width", "search.sampler"} < set(every)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.yaml"], "ready sweeps: .*quickstart"),
        (["run", "bad.yaml"], r"line 3: models\.0: unknown model 'resnet21'.*Valid: "),
        (
            ["run", "misfit.yaml"],
            r"line 8: placements\.0: placement 'first-99' does not fit resnet8: it has .* Its sites: stem",
        ),
        (["run", "nodata.yaml"], "unknown data set 'mnist'"),
        (["plan", "tiny.yaml", "--data", "parquet:nowhere"], "nowhere"),
        (["query", "accurracy", "--store", "store"], "Did you mean 'accuracy'"),
        (["query", "accuracy", "--store", "store", "--param", "sead=1"], "sead"),
        (["query", "accuracy", "--store", "store", "--param", "sead"], "NAME=VALUE"),
        (["query", "--store", "store", "--sql", "DROP TABLE trials"], "SELECT"),
        (["query", "--store", "store", "--sql", "SELECT nothing FROM trials"], "nothing"),
        (["query", "--store", "store", "--sql", ""], "a question is one SELECT statement, but got: none"),
        (["query", "--server", "http://127.0.0.1:9", "--sql", " "], "a question is one SELECT statement, but got: n"),
        (["query", "accuracy", "--store", "store", "--sql", "SELECT 1"], "not both"),
        (["query", "--store", "store", "--sql", "SELECT 1", "--param", "a=1"], "for a named query"),
        (["query", "accuracy", "--paper", "--sweep", "tiny"], "know no sweeps"),
        (["claims", "--paper", "--sweep", "tiny"], "know no sweeps"),
        (["store", "export", "rows", "--store", "store", "--query", "runs"], "latex, but got --format parquet"),
        (["store", "export", "rows", "--store", "store", "--sweep", "tini"], "Did you mean 'tiny'"),
        (["launch", "quickstart", "--target", "compose", "--store", "folder"], "share no folder"),
        (["query", "accuracy", "--store", "store", "--sweep", "other"], "other"),
        (
            ["search", "show", "--json", "--store", "store"],
            "no search has asked for a run; a search is a sweep file with",
        ),
        (["plan", "tiny.yaml", "--store", "~nosuch/x"], "no home directory for '~nosuch/x'"),
        (["plan", "tiny.yaml", "--data-root", "~nosuch/x"], "no home directory for '~nosuch/x'"),
        (["plan", "tiny.yaml", "--data", "folder:~nosuch/x"], "line 2: data.0: .*no home directory for '~nosuch/x'"),
        (["plan", "a" * 300], "File name too long"),
        (["spec", "quikstart"], "Did you mean 'quickstart'"),
        (["spec", "quickstart", "--json"], "printed as it is"),
        (["spec", "--keys", "epoch"], "unknown key 'epoch'. Did you mean 'epochs'"),
        (["models", "resnet21"], "unknown model 'resnet21'. Valid: resnet8"),
        (["models", "torchvision:resnet1"], "unknown"),
        (["models", "import:nothing:here"], "nothing"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(work, arguments, message):
    (work / "bad.yaml").write_text(SPEC.replace("resnet8", "resnet21"))
    (work / "misfit.yaml").write_text(SPEC + "placements: [{first: 99}]\n")
    (work / "nodata.yaml").write_text(SPEC.replace("digits", "mnist"))
    done = bnsweep(*arguments, cwd=work)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(message, done.stderr), done.stderr


def test_a_plan_refuses_the_images_that_its_run_does(work):
    from PIL import Image

    for half, name, side in (("train", "a", 8), ("train", "b", 8), ("test", "a", 8), ("test", "b", 9)):
        (work / "pictures" / half / name).mkdir(parents=True)
        Image.new("L", (side, side)).save(work / "pictures" / half / name / "0.png")
    (work / "pictures.yaml").write_text("name: pictures\ndata: folder:pictures\nmodels: resnet8\n")
    words = ("pictures.yaml", "--store", "no-pictures-yet")
    planned, ran = bnsweep("plan", *words, "--guess", cwd=work), bnsweep("run", *words, cwd=work)
    assert (planned.returncode, planned.stdout) == (ran.returncode, ran.stdout) == (2, "")
    assert planned.stderr == ran.stderr
    assert "test/b/0.png is 9x9 pixels, but the first image is 8x8" in planned.stderr


def test_a_plan_says_what_will_be_downloaded(work):
    def plan():
        return ask(work, "plan", "cifar10-full", "--guess", "--store", "nothing-yet", "--data-root", "empty")

    assert "note     CIFAR10 is not in empty: a sweep that runs here downloads it" in plan()
    (work / "empty" / "cifar-10-batches-py").mkdir(parents=True)
    assert "CIFAR10 is not in" not in plan()


@pytest.mark.parametrize(
    "command",
    [
        ["store", "export", "--store", "store", "--format", "store"],
        ["query", "accuracy", "--store", "store", "--out"],
        ["report", "--store", "store", "--out"],
        ["report", "--store", "store", "--figures"],
        ["search", "show", "--store", "store", "--emit"],
        ["launch", "quickstart", "--target", "slurm", "--out"],
        ["run", "tiny.yaml", "--store", "store", "--data-root"],
    ],
)
def test_what_is_written_to_this_machine_is_not_written_to_a_folder_that_looks_like_a_bucket(work, command):
    there = sorted(work.iterdir())
    done = bnsweep(*command, "s3://bucket/x", cwd=work)
    assert done.returncode == 2
    assert "this is written to this machine, but got a URL, 's3://bucket/x': give a path" in done.stderr
    assert sorted(work.iterdir()) == there


@pytest.mark.parametrize(
    "command", [["status"], ["query", "accuracy"], ["report"], ["store", "ls"], ["store", "verify"]]
)
def test_no_store_is_said_in_one_line(work, command):
    done = bnsweep(*command, "--store", "nowhere", cwd=work)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no store" in done.stderr


def test_a_store_is_not_made_among_other_files(work):
    (work / "sources").mkdir()
    (work / "sources" / "nets.py").touch()
    done = bnsweep("run", "tiny.yaml", "--engine", "inline", "--store", "sources", cwd=work)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "sources holds other files (nets.py): give a store, or" in done.stderr
    assert [path.name for path in (work / "sources").iterdir()] == ["nets.py"]


def test_a_token_for_a_store_that_is_not_there_says_that_it_makes_one(work):
    assert bnsweep("token", "ls", "--store", "served", cwd=work).returncode == 2
    made = bnsweep("token", "create", "ada", "--role", "viewer", "--store", "served", cwd=work)
    assert "There was no store at served: an empty one is made" in made.stderr
    assert Store.exists(work / "served")


def test_tokens_without_an_admin_s_are_told_with_the_way_out(work):
    """From the first token on nobody is admin without one."""
    store = ("--store", "guarded")
    told = "bnsweep token create NAME --role admin --store guarded"
    assert told in bnsweep("token", "create", "ada", "--role", "viewer", *store, cwd=work).stderr
    assert told in bnsweep("token", "ls", *store, cwd=work).stderr
    assert told not in bnsweep("token", "create", "root", "--role", "admin", *store, cwd=work).stderr
    assert told not in bnsweep("token", "revoke", "ada", *store, cwd=work).stderr
    assert told in bnsweep("token", "revoke", "root", *store, cwd=work).stderr


def test_a_token_for_a_user_without_a_name_is_called_by_the_number(tmp_path):
    """As in a container that runs under whatever number it is given."""
    unnamed = "import os; os.getuid = lambda: 54321; from bnsweep.cli import main; main()"
    names = ("LOGNAME", "USER", "LNAME", "USERNAME")
    done = subprocess.run(
        [sys.executable, "-c", unnamed, "token", "create", "--role", "viewer", "--store", tmp_path / "store"],
        capture_output=True, text=True, timeout=240, check=False,
        env={name: value for name, value in os.environ.items() if name not in names},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "This is 54321's viewer token" in done.stderr


def test_a_store_of_a_newer_schema_is_refused(work, tmp_path):
    shutil.copytree(work / "store", tmp_path / "store")
    head = tmp_path / "store" / "bnsweep-store.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "schema_version": 99}))
    done = bnsweep("run", work / "tiny.yaml", "--store", tmp_path / "store")
    assert done.returncode == 2
    assert "99" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_keeps_what_is_there_and_says_so_in_one_line(work, tmp_path):
    with mounted(tmp_path / "disk", "440k") as disk:  # of which a network takes 312
        (tmp_path / "long.yaml").write_text(SPEC.replace("trials: 3", "trials: 100000"))
        done = bnsweep("run", tmp_path / "long.yaml", "--store", disk / "store", "--engine", "inline", "--quiet")
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stderr
        assert "space" in done.stderr
        assert Store.open(disk / "store").rows("trials") > 0
        assert verify(Store.open(disk / "store")).ok
