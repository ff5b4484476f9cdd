"""Submitting, watching, cancelling, retrying; and that killing anything loses nothing."""

import json
import os
import resource
import signal
from pathlib import Path

import pytest
import served as helpers

from bnsweep.errors import InputError, SpecError
from bnsweep.store.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]  # in one process with test_ray_jobs.py: they share a cluster
LONG = helpers.TINY.replace("trials: 4", "trials: 200000").replace("name: tiny", "name: long")
SEARCH = """\
name: seek
data: {source: digits, size: 8, train_images: 200, test_images: 100}
models: [resnet8]
train_seeds: 1
training: {epochs: 1, batch_size: 50, chance_epochs: null}
noise: {targets: all}
eta: [0, 0.2]
trials: 3
search: {trainings: 2, batch: 2}
"""


def test_a_sweep_from_submission_to_its_rows(client, work):
    """The command line's own row count; the same rows as `bnsweep run` gives."""
    folder, store, _ = work
    assert client.check(helpers.TINY)["plan"]["rows_min"] == 4 * 2 * (
        1 + 2 * 4
    )  # runs x cells x (baseline + eta x trials)
    job = client.submit(helpers.TINY)
    assert (job["id"], job["by"], job["state"]) == ("tiny/1", "runner", "queued")
    assert client.submit(helpers.TINY)["id"] == "tiny/1"  # the same again is the same job
    ended = client.wait("tiny", timeout_s=120)
    assert ended["state"] == "done", ended
    assert ended["message"].startswith("4 networks trained, 72 trials scored")
    # `wait` ends when the service's rows are those of the ended job, and programs are told of no older ones.
    (row,) = (row for row in client.sweeps() if row["sweep"] == "tiny")
    assert (row["trained"], row["trials"]) == (4, 72)
    assert (row["state"], row["done_pct"], row["by"]) == ("done", 100.0, "runner")
    (folder / "tiny.yaml").write_text(helpers.TINY)
    done = helpers.bnsweep("run", folder / "tiny.yaml", "--store", folder / "other", "--engine", "inline", "--quiet")
    assert done.returncode == 0, done.stderr
    columns = ["sweep", "point_id", "trial", "noise_seed", "correct", "accuracy"]

    def rows(place):
        mine = [row for row in Store.open(place).read("trials", columns=columns).to_pylist() if row["sweep"] == "tiny"]
        return sorted(mine, key=lambda row: (row["point_id"], row["trial"]))

    assert len(rows(store)) == 72
    assert rows(store) == rows(folder / "other")


def test_progress_comes_as_events(running, work):
    with running.client(work[2]["viewer"]) as client, client.stream("GET", "/sweeps/tiny/events") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        lines = events.iter_lines()
        assert next(lines) == "event: progress"
        row = json.loads(next(lines).removeprefix("data: "))
        assert (row["sweep"], row["state"], row["planned_runs"]) == ("tiny", "done", 4)


def test_a_grown_spec_extends_and_only_its_owner_may(client, running, work, connect):
    grown = helpers.TINY.replace("trials: 4", "trials: 6")
    owner = connect(running.address, work[2]["admin"])
    assert client.check(grown)["note"].startswith("There is a sweep 'tiny': this extends it")
    job = client.submit(grown)
    assert job["number"] == 2
    ended = client.wait("tiny", timeout_s=120)
    assert ended["message"].startswith("0 networks trained, 32 trials scored")
    other = helpers.make_other(work[1])
    stranger = connect(running.address, other)
    with pytest.raises(InputError, match="can be changed by its owner or an admin: it is runner's"):
        stranger.submit(helpers.TINY.replace("trials: 4", "trials: 8"))
    with pytest.raises(InputError, match="job tiny/2 has ended"):
        owner.cancel("tiny")


def test_a_cancelled_sweep_keeps_its_blocks_and_others_wait_their_turn(client, work):
    client.submit(LONG)
    waiting = client.submit(helpers.TINY.replace("name: tiny", "name: after"))
    assert waiting["state"] == "queued"
    helpers.wait_until(
        lambda: client.sweep("long")["summary"]["trials"] or client.sweep("long")["progress"].get("trials")
    )
    assert client.sweep("after")["summary"]["state"] == "queued"
    assert client.cancel("after")["state"] == "cancelled"
    with pytest.raises(InputError, match="sweep 'long' is running: cancel it or wait"):
        client.submit(LONG.replace("200000", "300000"))
    assert client.cancel("long")["state"] in ("cancelling", "cancelled")
    ended = client.wait("long", timeout_s=60)
    assert (ended["state"], ended["cancelled_by"]) == ("cancelled", "runner")
    assert "every finished block is kept" in ended["message"]
    assert Store.open(work[1]).rows("trials") > 72


def test_the_queue_has_a_limit_per_user(running, work, client):
    specs = [
        helpers.TINY.replace("name: tiny", f"name: q{number}").replace("trials: 4", "trials: 100000")
        for number in range(6)
    ]
    for spec in specs[:5]:
        client.submit(spec)
    with pytest.raises(InputError, match=r"at most 5 sweeps that wait or run, and runner has: q0, q1.*\(429\)"):
        client.submit(specs[5])
    for number in reversed(range(5)):
        client.cancel(f"q{number}")
    for number in range(5):
        assert client.wait(f"q{number}", timeout_s=60)["state"] == "cancelled"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resnet8": "import:os:system"}, r"line 3: models\.0\.name: 'import:os:system' runs code of your own"),
        ({"source: digits": "source: 'folder:/etc'"}, r"line 2: data\.0\.source: 'folder:/etc' lies outside"),
        ({"source: digits": "source: 'parquet:~/x'"}, r"line 2: data\.0\.source: .*lies outside"),
        ({"source: digits": "source: mnist"}, "line 2: .*unknown data set 'mnist'"),
        ({"resnet8": "resnet21"}, r"line 3: models\.0: unknown model 'resnet21'"),
        ({"[all, none]": "[{first: 99}]"}, r"line 4: placements\.0: .*does not fit resnet8"),
        ({"trials: 4": "trials: -1"}, "line 9: trials: .*greater than or equal to 1"),
        ({"name: tiny": "name: &x tiny"}, "line 1: anchors and aliases"),
        ({"train_seeds: 2": "train_seeds: 100000"}, "at most 10,000 training runs, but this has 200,000"),
        ({"name: tiny": "name: ../x"}, "line 1: name: "),
        # What the form says and what only a plan finds, in the order of the file.
        (
            {"resnet8": "resnet21", "trials: 4": "trials: -1", "[all, none]": "[al, none]"},
            r"line 3: models\.0: unknown model 'resnet21'[^$]*line 4: placements[^$]*line 9: trials: ",
        ),
        (
            {"resnet8": "import:os:system", "train_seeds: 2": "train_seeds: 0"},
            r"has 2 problems:\s+line 3: models\.0\.name: [^\n]*\n\s+line 5: train_seeds",
        ),
        (  # what may not be looked at is not looked at, whatever else is wrong
            {"source: digits": "source: 'folder:/etc'", "train_seeds: 2": "train_seeds: 0", "resnet8": "resnet21"},
            r"has 2 problems:\s+line 2: data\.0\.source: 'folder:/etc' lies outside[^\n]*\n\s+line 5: train_seeds",
        ),
        (
            {"trials: 4": "trials: 4\nsearch: {trainings: 20000}"},
            r"line 10: search\.trainings: .*at most 10,000 training runs, but",
        ),
        (
            {"trials: 4": "trials: 4\nsearch: {sampler: exhaustive}", "resnet8": "resnet32"},
            "line 3: models.0: .*must hold for an exhaustive search",
        ),
        ({"trials: 4": "trials: 4 #" + "x" * 100_000}, "at most 100,000 bytes, but this has 100,"),
    ],
)
def test_a_spec_that_a_stranger_may_not_submit(client, change, message):
    spec = helpers.TINY.replace("name: tiny", "name: bad") if "name: tiny" not in change else helpers.TINY
    for old, new in change.items():
        assert old in spec
        spec = spec.replace(old, new)
    with pytest.raises((SpecError, InputError), match=message):
        client.submit(spec)
    assert not [row for row in client.sweeps() if row["sweep"] in ("bad", "x")]


def test_images_may_come_from_folders_that_are_open(tmp_path):
    from bnsweep.service.checks import read_submitted

    open_ = tmp_path / "open"
    open_.mkdir()
    (open_ / "link").symlink_to("/etc")

    def spec(path):
        return helpers.TINY.replace("source: digits", f"source: 'folder:{path}'")

    assert read_submitted(spec(open_ / "cats"), folders=[open_]).data[0].source.endswith("cats")
    for path in (open_ / "link", open_ / ".." / "other", f"{open_}2", "relative"):
        with pytest.raises(SpecError, match="lies outside the folders that are open to submissions"):
            read_submitted(spec(path), folders=[open_])


def test_weights_may_come_from_folders_that_are_open(tmp_path):
    from bnsweep.service.checks import read_submitted

    def spec(path):
        return helpers.TINY.replace("models: resnet8", f"models: {{name: resnet8, weights: ['{path}']}}")

    assert read_submitted(spec(tmp_path / "net.pt"), folders=[tmp_path]).models[0].weights == (f"{tmp_path}/net.pt",)
    for path in ("/etc/net.pt", tmp_path / ".." / "net.pt", "net.pt", "folder:/etc/net.pt"):
        with pytest.raises(SpecError, match=r"line 3: models\.0\.weights\.0: '.*net.pt' lies outside the folders"):
            read_submitted(spec(path), folders=[tmp_path])


def test_killing_the_service_loses_nothing(running, client):
    """SIGKILL the service while one sweep runs and one waits: that goes on and is shown, this has its turn."""
    spec = LONG.replace("name: long", "name: survives")
    client.submit(spec)
    job = helpers.wait_until(lambda: (j := client.sweep("survives")["jobs"][0])["state"] == "running" and j)
    client.submit(helpers.TINY.replace("name: tiny", "name: waits"))
    running.kill()
    at_work = Path(f"/proc/{job['where'].split()[1]}")
    assert at_work.exists()
    running.start()
    assert client.sweep("survives")["summary"]["state"] == "running"
    assert client.sweep("survives")["jobs"][0]["where"] == job["where"]
    helpers.wait_until(lambda: client.sweep("survives")["progress"].get("trials"))
    assert client.cancel("survives")["state"] == "cancelling"
    assert client.wait("survives", timeout_s=60)["state"] == "cancelled"
    helpers.wait_until(lambda: not at_work.exists())
    assert client.wait("waits", timeout_s=120)["state"] == "done"


def test_a_killed_sweep_goes_on(client, work):
    """SIGKILL the sweep's process: it is started again and does the rest."""
    spec = helpers.TINY.replace("trials: 4", "trials: 60").replace("name: tiny", "name: killed")
    spec = spec.replace("eta: [0, 0.1, 0.3]", "eta: [0, 0.15, 0.35]")  # rows that no other sweep of the store has
    client.submit(spec)
    job = helpers.wait_until(
        lambda: client.sweep("killed")["progress"].get("trials") and client.sweep("killed")["jobs"][0]
    )
    os.kill(int(job["where"].split()[1]), signal.SIGKILL)
    ended = client.wait("killed", timeout_s=120)
    assert (ended["state"], ended["attempts"]) == ("done", 2)
    opened = Store.open(work[1])
    rows = opened.read("trials", columns=["sweep", "point_id", "trial"]).to_pylist()
    mine = [(row["point_id"], row["trial"]) for row in rows if row["sweep"] == "killed"]
    assert len(set(mine)) == len(mine) == 4 * 2 * 2 * 60  # those at eta = 0 are tiny's


def test_a_search_is_submitted_like_a_sweep(client, work):
    spec = SEARCH
    plan = client.check(spec)["plan"]
    assert (plan["runs"], plan["runs_missing"], plan["rows_min"]) == (2, 2, 2 * (1 + 3))
    with pytest.raises(InputError, match="`minimal` is for searches"):
        client.submit(helpers.TINY, minimal=True)
    job = client.submit(spec)
    ended = client.wait("seek", timeout_s=240)
    assert ended["state"] == "done", ended
    assert ended["message"].startswith("2 placements trained and scored in ")
    (row,) = (row for row in client.sweeps() if row["sweep"] == "seek")
    assert (row["state"], row["planned_runs"], row["trained"], row["by"]) == ("done", 2, 2, "runner")
    assert client.check(spec)["plan"]["runs_missing"] == 0
    assert Store.open(work[1]).rows("proposals") == 2
    assert job["minimal"] is False


def test_what_failed_is_tried_again_once_its_cause_is_gone(client):
    """Memory runs out in the middle of a sweep: networks fail. With memory, a retry through the API trains them."""
    spec = helpers.TINY.replace("name: tiny", "name: hungry").replace("[all, none]", "[all]")
    for old, new in {
        "source: digits": "source: digits, size: 32", "batch_size: 50": "batch_size: 200", "epochs: 2": "epochs: 1",
        "train_seeds: 2": "train_seeds: 6", "eta: [0, 0.1, 0.3]": "eta: [0, 0.2]", "trials: 4": "trials: 1",
    }.items():  # fmt: skip
        spec = spec.replace(old, new)
    client.submit(spec)
    job = helpers.wait_until(
        lambda: client.sweep("hungry")["progress"].get("runs") and client.sweep("hungry")["jobs"][0], every_s=0.05
    )
    # Less than the process has already: what it holds it keeps, and the next network's activations do not fit.
    resource.prlimit(int(job["where"].split()[1]), resource.RLIMIT_AS, (2**28, resource.RLIM_INFINITY))
    ended = client.wait("hungry", timeout_s=120)
    assert ended["state"] == "failed", ended
    trained = int(ended["message"].split()[0])
    failures = client.sweep("hungry")["failures"]
    assert len(failures) == 6 - trained
    assert all("can't allocate memory" in row["error"] for row in failures)
    again = client.retry("hungry")
    assert (again["number"], again["retry_failed"]) == (2, True)
    ended = client.wait("hungry", timeout_s=120)
    assert ended["state"] == "done", ended
    assert ended["message"].startswith(f"{6 - trained} networks trained")
    (row,) = (row for row in client.sweeps() if row["sweep"] == "hungry")
    assert (row["state"], row["trained"], row["failed_runs"], row["missing"]) == ("done", 6, 0, 0)


def test_forms_must_be_our_own(running, work, connect):
    """A form without its proof, from another site, or of another browser does nothing."""
    cookie = {"bnsweep_token": work[2]["runner"]}
    with running.client(cookies=cookie) as browser:
        page = browser.get("/new", headers={"accept": "text/html"}).text
        proof = page.partition('name="proof" value="')[2].partition('"')[0]
        form = {"spec": helpers.TINY.replace("tiny", "forged"), "act": "submit"}
        assert browser.post("/new", data=form).status_code == 403
        assert browser.post("/new", data={**form, "proof": "0" * 64}).status_code == 403
        cross = {"origin": "https://evil.example"}
        assert browser.post("/new", data={**form, "proof": proof}, headers=cross).status_code == 403
        assert browser.post("/sweeps.json", json={"spec": form["spec"]}, headers=cross).status_code == 403
        site = {"sec-fetch-site": "cross-site"}
        assert browser.post("/sweeps.json", json={"spec": form["spec"]}, headers=site).status_code == 403
        text = {"content-type": "text/plain"}  # what a page of another site may send without asking
        assert browser.post("/sweeps.json", content=json.dumps({"spec": form["spec"]}), headers=text).status_code == 415
        ours = {"origin": running.address}
        bad = browser.post(
            "/new", data={**form, "spec": "name: x", "proof": proof}, headers={**ours, "accept": "text/html"}
        )
        assert bad.status_code == 422
        assert "data</code>: this key is required" in bad.text
    assert not [row for row in connect(running.address, work[2]["viewer"]).sweeps() if row["sweep"] == "forged"]


def test_the_audit_log_says_who_did_what(running, work, connect):
    acts = connect(running.address, work[2]["admin"])._get("/audit.json")["acts"]
    done = {(act["who"], act["what"], act.get("sweep")) for act in acts}
    assert {("runner", "submit", "tiny"), ("runner", "cancel", "long")} <= done
    assert all(act["at"].endswith("+00:00") for act in acts)
    text = json.dumps(acts) + running.log.read_text()
    assert not [name for name, token in work[2].items() if token in text]
    stored = b"".join(path.read_bytes() for path in Path(work[1], "service").rglob("*.json"))
    assert not [name for name, token in work[2].items() if token.split("-", 2)[2].encode() in stored]


def test_the_command_line_against_a_service(running, work):
    folder, _, tokens = work
    where = {"BNSWEEP_SERVER": running.address, "BNSWEEP_TOKEN": tokens["runner"]}
    (folder / "cli.yaml").write_text(helpers.TINY.replace("name: tiny", "name: cli"))
    done = helpers.bnsweep("submit", folder / "cli.yaml", "--wait", **where)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"cli/1: done. {running.address}/sweeps/cli\n"
    status = json.loads(helpers.bnsweep("status", "--server", running.address, "--json", **where).stdout)
    assert {row["sweep"]: row["state"] for row in status["sweeps"]}["cli"] == "done"
    assert None in [row["trained"] for row in status["sweeps"]]  # those that were cancelled as they waited
    assert "None" not in helpers.bnsweep("status", "--server", running.address, **where).stdout
    asked = helpers.bnsweep(
        "query", "accuracy", "--server", running.address, "--sweep", "cli", "--format", "csv", **where
    )
    assert asked.stdout.count("\n") == 1 + 2 * 2 * 3, asked.stderr
    sql = "SELECT count(*) AS n FROM trials WHERE sweep = 'nobody'"
    own = helpers.bnsweep("query", "--sql", sql, "--server", running.address, "--json", **where)
    assert json.loads(own.stdout)["rows"] == [{"n": 0}]
    refused = helpers.bnsweep("cancel", "cli", **where)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "job cli/1 has ended (done)" in refused.stderr
    nobody = helpers.bnsweep("submit", "quickstart", BNSWEEP_SERVER=running.address)
    assert nobody.returncode == 2
    assert "sign in, or send a token" in nobody.stderr


def test_beyond_loopback_only_with_tokens(tmp_path):
    with helpers.service(tmp_path / "store", "--host", "0.0.0.0") as served:
        assert "listening on 127.0.0.1 only, not on 0.0.0.0" in served.log.read_text()
        assert served.address.startswith("http://127.0.0.1:")
        with served.client() as anyone:
            assert anyone.get("/audit.json").status_code == 200
            # A page whose own name was made to point here must not be let in.
            assert anyone.get("/sweeps.json", headers={"host": "evil.example"}).status_code == 401
            helpers.make_tokens(tmp_path / "store")  # from now on there is somebody to be
            helpers.wait_until(lambda: anyone.get("/sweeps.json").status_code == 401)


def test_tokens_from_the_command_line(tmp_path):
    store = tmp_path / "store"
    made = helpers.bnsweep("token", "create", "ada", "--role", "viewer", "--store", store)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("bnsweep-")
    again = helpers.bnsweep("token", "create", "ada", "--role", "admin", "--store", store)
    assert (again.returncode, again.stdout) == (2, "")
    listed = json.loads(helpers.bnsweep("token", "ls", "--json", "--store", store).stdout)
    assert [(row["name"], row["role"], row["revoked"]) for row in listed] == [("ada", "viewer", "-")]
    assert made.stdout.strip() not in json.dumps(listed)
    assert helpers.bnsweep("token", "revoke", "ada", "--store", store).returncode == 0
    from bnsweep.service.auth import Tokens
    from bnsweep.service.records import Records

    assert Tokens(Records(Store.open(store).files)).user(made.stdout.strip()) is None
    from bnsweep.service.audit import Audit

    revoked, created = Audit(Records(Store.open(store).files)).latest(10)
    assert (created["what"], created["name"], created["role"]) == ("token made", "ada", "viewer")
    assert (revoked["what"], revoked["name"], revoked["who"]) == ("token revoked", "ada", created["who"])
    assert "unknown token 'ada'" in helpers.bnsweep("token", "revoke", "ada", "--store", store).stderr
