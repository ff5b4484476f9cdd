"""What goes wrong around the service: other programs at the cluster's address, proxies, queues and their owners."""

import json
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from served import wait_until

from bnsweep.errors import EngineError, InputError, SpecError
from bnsweep.experiment.reading import as_run, parse_spec
from bnsweep.service.auth import Role, User
from bnsweep.service.checks import Planner
from bnsweep.service.client import Client
from bnsweep.service.cluster import Head, LocalCluster, RemoteCluster
from bnsweep.service.dispatcher import Dispatcher
from bnsweep.service.hub import Hub
from bnsweep.service.jobs import PULSE_S, Jobs
from bnsweep.service.keeper import Head as Dashboard
from bnsweep.service.launcher import Launcher
from bnsweep.service.records import Records
from bnsweep.store.claim import Holder
from bnsweep.store.store import Store
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.planner import answer
from tests.results.published import ROOT

SPEC = "name: mine\ndata: digits\nmodels: resnet8\n"


@contextmanager
def answering(status, body, **headers):
    """A web server that says the same to everybody: its address, and what it was sent."""
    heard = []

    class Says(BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append((self.path, self.headers.get("authorization")))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Says)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", heard
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def jobs(tmp_path):
    return Jobs(Records(Store.create(tmp_path / "store").files))


@pytest.mark.parametrize("says", [(302, b"", {"location": "/login"}), (200, b"<html>Welcome", {})], ids=["302", "html"])
def test_a_queue_lives_on_beside_what_is_no_cluster(jobs, says):
    status, body, headers = says
    jobs.submit("mine", SPEC, by="ada", limit=3)
    with answering(status, body, **headers) as (address, _):
        launcher = Launcher(RemoteCluster(Head(address, "")), options=())
        queue = Dispatcher(jobs, launcher)
        queue.start()
        wait_until(lambda: address in queue.trouble)
        queue.close()
        launcher.close()


def test_a_queue_outlives_an_error_that_nobody_thought_of(jobs):
    launcher = SimpleNamespace(launch=lambda _: 1 / 0)
    jobs.submit("mine", SPEC, by="ada", limit=3)
    queue = Dispatcher(jobs, launcher)
    queue.start()
    wait_until(lambda: "ZeroDivisionError" in queue.trouble)
    launcher.launch = lambda _: ""
    queue.wake()
    wait_until(lambda: not queue.trouble)
    queue.close()


def test_a_job_elsewhere_that_died_before_its_first_pulse_holds_nothing_up(jobs, tmp_path):
    """Of a process on another machine nothing is seen but the ages of its records."""
    folder = tmp_path / "store/service/jobs/mine/0001"
    jobs.submit("mine", SPEC, by="ada", limit=3)
    launched = []
    queue = Dispatcher(jobs, SimpleNamespace(launch=lambda job: launched.append(job.attempts)))

    def state_where(**ages_s):
        for name, age_s in ages_s.items():
            path = folder / f"{name.replace('_', '-')}.json"
            if name.startswith("started"):
                elsewhere = asdict(replace(Holder.me(), machine="another"))
                path.write_text(json.dumps({"at": "2026-11-30T10:00:00+00:00", **elsewhere}))
            else:
                path.write_text("{}")
            os.utime(path, (time.time() - age_s,) * 2)
        return jobs.get("mine", 1).state

    day_s = 24 * 3600.0
    assert state_where(started_1=PULSE_S / 2) == "running"
    assert state_where(started_1=day_s) == "lost"
    assert state_where(progress=PULSE_S / 2) == "running"
    assert state_where(progress=day_s) == "lost"
    queue.tick()
    assert launched == [1]
    assert state_where(started_2=PULSE_S / 2) == "running"  # beside the last pulse of the first attempt
    assert jobs.cancel(jobs.get("mine", 1), by="ada").state == "cancelling"
    state_where(started_2=day_s)
    queue.tick()
    assert jobs.get("mine", 1).state == "cancelled"


def test_a_malformed_address_of_a_cluster_is_said(jobs):
    launcher = Launcher(RemoteCluster(Head("http://head:82x65", "")), options=())
    with pytest.raises(EngineError, match="82x65"):
        launcher.launch(jobs.submit("mine", SPEC, by="ada", limit=3))


def test_a_proxy_never_sees_the_token_of_our_own_cluster(jobs, monkeypatch, tmp_path):
    with answering(200, b"{}") as (proxy, heard), answering(200, b"[]") as (address, asked):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("http_proxy", proxy)
        cluster = LocalCluster(Store.create(tmp_path / "other").files)
        monkeypatch.setattr(cluster, "known", lambda: Head(address, "secret"))
        launcher = Launcher(cluster, options=())
        launcher.stop(jobs.submit("mine", SPEC, by="ada", limit=3))
        assert Dashboard(address, "secret").takes_jobs()
    assert heard == []
    assert [token for _, token in asked] == ["Bearer secret"] * 2


def test_a_sweep_stays_its_owners_when_an_admin_tries_it_again(jobs):
    ada, ben, root = (
        User(name, role, "") for name, role in (("ada", Role.RUNNER), ("ben", Role.RUNNER), ("root", Role.ADMIN))
    )
    hub = Hub(**{**dict.fromkeys(Hub.__annotations__), "jobs": jobs})
    jobs.end(jobs.submit("mine", SPEC, by="ada", limit=3), state="failed", message="no memory")
    again = jobs.submit("mine", SPEC, by="root", limit=3)
    assert [hub.may_change(user, again) for user in (ada, ben, root)] == [True, False, True]


def test_what_is_being_stopped_cannot_be_submitted_as_if_it_went_on(jobs):
    job = jobs.submit("mine", SPEC, by="ada", limit=3)
    assert jobs.submit("mine", SPEC, by="ada", limit=3).number == job.number
    assert jobs.start(job) == 1
    jobs.cancel(jobs.get("mine", 1), by="ada")
    with pytest.raises(InputError, match="wait for its end"):
        jobs.submit("mine", SPEC, by="ada", limit=3)


def test_a_sweep_that_was_run_with_other_images_is_extended_with_those():
    (row,) = Store.open(ROOT / "results/cifar10-full").read("sweeps").to_pylist()
    text = as_run(row["spec_yaml"], row["spec"])
    assert parse_spec(row["spec_yaml"]).data[0].source == "cifar10"
    assert json.loads(row["spec"])["data"][0]["source"] == parse_spec(text).data[0].source
    assert as_run(text, row["spec"]) == text
    assert as_run(row["spec_yaml"], "{}") == row["spec_yaml"]


def test_a_client_says_what_is_wrong_with_address_and_token():
    with pytest.raises(InputError, match="80x0"):
        Client("http://localhost:80x0")
    with pytest.raises(
        InputError, match="begins with http:// or https://, but got '127.0.0.1:9': write http://127.0.0.1:9"
    ):
        Client("127.0.0.1:9")
    with pytest.raises(InputError, match="token"):
        Client("http://localhost:8000", token="bnsweep-1-Ã¤")
    with (
        answering(200, b"<html>") as (address, _),
        Client(address) as client,
        pytest.raises(EngineError, match="no bnsweep"),
    ):
        client.status()


def test_a_folder_that_the_system_refuses_is_a_problem_of_its_sweep(tmp_path):
    planner = Planner(str(tmp_path / "store"), tmp_path)
    try:
        with pytest.raises(SpecError, match=r"data.0: .*a/train cannot be read: File name too long"):
            planner.plan(SPEC.replace("digits", f"folder:{tmp_path}/{'a' * 300}"))
        assert planner.plan(SPEC)["runs"] == 2  # with BN and without
    finally:
        planner.close()


def test_whatever_planning_a_sweep_raises_is_a_problem_of_that_sweep(tmp_path):
    class Odd(LocalCatalog):
        def _shape(self, data):
            raise ZeroDivisionError("by zero")

    found = answer(SPEC, str(tmp_path / "store"), Odd(tmp_path))["problems"]
    assert [problem["message"] for problem in found] == ["this sweep cannot be planned: ZeroDivisionError: by zero"]


class Meanwhile(Records):
    """Records that somebody else does something beside, just before one of them is made."""

    def __init__(self, files, name, other):
        super().__init__(files)
        self._name, self._other = name, other

    def create(self, name, fields):
        if name.endswith(self._name):
            self._other()
        return super().create(name, fields)


@pytest.fixture
def queued(tmp_path):
    files = Store.create(tmp_path / "store").files
    jobs = Jobs(Records(files))
    return files, jobs, jobs.submit("mine", SPEC, by="ada", limit=9)


def test_a_job_that_has_begun_meanwhile_was_not_cancelled_before_it_began(queued):
    """Its process ends it, and says what became of it; till then no other may begin."""
    files, jobs, job = queued
    begins = Meanwhile(files, "/cancel", lambda: jobs.start(job))
    assert Jobs(begins).cancel(job, by="ada").state == "cancelling"


def test_a_job_that_is_cancelled_while_it_begins_does_not_run(queued):
    files, jobs, job = queued
    assert Jobs(Meanwhile(files, "/started-1", lambda: jobs.cancel(job, by="ada"))).start(job) == 0
    ended = jobs.get("mine", 1)
    assert (ended.state, ended.message) == ("cancelled", "cancelled before it began")
