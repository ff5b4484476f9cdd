"""Every route: who may use it, what it answers to whom, and in which form."""

import asyncio
import json
import re
import socket
from itertools import pairwise

import httpx
import pytest

from bnsweep.errors import BnsweepError
from bnsweep.service.answers import ERROR_SCHEMA
from bnsweep.service.app import make_app, roles
from bnsweep.service.auth import Role, Tokens
from bnsweep.service.records import Records
from bnsweep.service.rows import LateError
from bnsweep.service.server import _listen, make_hub
from bnsweep.service.settings import Settings
from bnsweep.store.store import Store

RUN = "12f12ddcc8af7b9f"
NAMES = {"{sweep}": "synthetic", "{query}": "accuracy", "{name}": "charts.js"}
# What everybody may see; all others take a role. A new route fails here until somebody has thought about it.
TABLE = {
    ("GET", "/healthz"): None,
    ("GET", "/openapi.json"): None,
    ("GET", "/static/{name}"): None,
    ("GET", "/signin"): None,
    ("POST", "/signin"): None,
    ("POST", "/signout"): None,
    ("GET", "/"): Role.VIEWER,
    ("GET", "/sweeps"): Role.VIEWER,
    ("GET", "/sweeps.json"): Role.VIEWER,
    ("GET", "/sweeps.csv"): Role.VIEWER,
    ("GET", "/sweeps/{sweep}"): Role.VIEWER,
    ("GET", "/sweeps/{sweep}.json"): Role.VIEWER,
    ("GET", "/sweeps/{sweep}.csv"): Role.VIEWER,
    ("GET", "/sweeps/{sweep}/live"): Role.VIEWER,
    ("GET", "/sweeps/{sweep}/figures"): Role.VIEWER,
    ("GET", "/sweeps/{sweep}/report"): Role.VIEWER,
    ("GET", "/sweeps/{sweep}/spec"): Role.VIEWER,
    ("GET", "/sweeps/{sweep}/events"): Role.VIEWER,
    ("GET", "/runs/{run_id}"): Role.VIEWER,
    ("GET", "/runs/{run_id}.json"): Role.VIEWER,
    ("GET", "/runs/{run_id}.csv"): Role.VIEWER,
    ("GET", "/runs/{run_id}/sites.json"): Role.VIEWER,
    ("GET", "/compare"): Role.VIEWER,
    ("GET", "/compare.json"): Role.VIEWER,
    ("GET", "/compare.csv"): Role.VIEWER,
    ("GET", "/ask"): Role.VIEWER,
    ("GET", "/ask.json"): Role.VIEWER,
    ("GET", "/ask.csv"): Role.VIEWER,
    ("GET", "/ask.parquet"): Role.VIEWER,
    ("GET", "/ask/{query}"): Role.VIEWER,
    ("GET", "/ask/{query}.json"): Role.VIEWER,
    ("GET", "/ask/{query}.csv"): Role.VIEWER,
    ("GET", "/ask/{query}.parquet"): Role.VIEWER,
    ("GET", "/new"): Role.RUNNER,
    ("GET", "/new.json"): Role.RUNNER,
    ("POST", "/new"): Role.RUNNER,
    ("POST", "/new/form"): Role.RUNNER,
    ("POST", "/check.json"): Role.RUNNER,
    ("POST", "/read.json"): Role.RUNNER,
    ("POST", "/sweeps.json"): Role.RUNNER,
    ("POST", "/sweeps/{sweep}/cancel"): Role.RUNNER,
    ("POST", "/sweeps/{sweep}/cancel.json"): Role.RUNNER,
    ("POST", "/sweeps/{sweep}/retry"): Role.RUNNER,
    ("POST", "/sweeps/{sweep}/retry.json"): Role.RUNNER,
    ("GET", "/audit"): Role.ADMIN,
    ("GET", "/audit.json"): Role.ADMIN,
    ("GET", "/audit.csv"): Role.ADMIN,
}


def test_the_table_is_all_there_is(tmp_path):
    store = Store.create(tmp_path / "store")
    tokens = Tokens(Records(store.files))
    hub = make_hub(store, tokens, data_root=tmp_path, settings=Settings(), loopback=True)
    heads = {("HEAD", path): role for (method, path), role in TABLE.items() if method == "GET"}
    del heads["HEAD", "/sweeps/{sweep}/events"]  # endless
    assert roles(make_app(hub)) == TABLE | heads


@pytest.mark.parametrize("path", ["/healthz", "/sweeps.csv", "/ask/accuracy.json", "/static/live.js"])
def test_head_is_get_without_a_body(viewer, path):
    head, whole = viewer.head(path), viewer.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]
    if path != "/healthz":
        assert head.headers.get("content-length") == whole.headers.get("content-length")


def test_head_is_led_to_the_door_as_get_is(served):
    with served.client() as nobody:
        assert nobody.head("/sweeps.json").status_code == 401
        assert nobody.head("/sweeps", headers={"accept": "text/html"}).headers["location"].startswith("/signin?")


def send(client, method, path, run_id):
    for name, value in {**NAMES, "{run_id}": run_id}.items():
        path = path.replace(name, value)
    if path.endswith("/events"):  # endless: only whether it begins
        with client.stream(method, path) as response:
            return response
    content = {"json": {"spec": "name: x"}} if path.endswith(".json") and method == "POST" else {}
    return client.request(method, path, **content)


@pytest.fixture(scope="module")
def run_id(viewer):
    return viewer.get("/sweeps/synthetic.json").json()["rows"][0]["run_id"]


@pytest.mark.parametrize(("method", "path"), TABLE, ids=lambda value: value)
def test_roles_are_enforced(served, tokens, run_id, method, path):
    """Without a token, with a wrong one, and with each role."""
    needed = TABLE[method, path]
    for name in (None, "wrong", *tokens):
        token = "bnsweep-00000000-guessed" if name == "wrong" else tokens.get(name)
        if needed is not None and name in tokens and Role.parse(name) >= needed and method == "POST":
            continue  # what they do is tried in test_work.py
        with served.client(token) as client:
            response = send(client, method, path, run_id)
        if needed is None:
            # The door itself says 401 to a form without a token that is one.
            assert response.status_code in ((200, 303, 401, 415) if method == "POST" else (200,)), response.text
        elif name in (None, "wrong"):
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
        elif Role.parse(name) < needed:
            assert response.status_code == 403
            assert "this takes the role" in response.json()["error"]
        else:
            assert response.status_code in (200, 303), response.text


@pytest.mark.parametrize("path", ["/sweeps", "/sweeps/synthetic", "/compare", "/ask/accuracy"])
def test_a_page_and_its_data_say_the_same(viewer, path):
    page = viewer.get(path, headers={"accept": "text/html"})
    data = viewer.get(f"{path}.json").json()
    lines = viewer.get(f"{path}.csv").text.splitlines()
    assert page.status_code == 200
    assert "</html>" in page.text
    assert data["ok"] is True
    assert len(lines) == 1 + len(data["rows"])
    assert lines[0].split(",") == [column["name"] for column in data["columns"]]


@pytest.mark.parametrize("path", ["/compare", "/ask/accuracy?view=chart", "/ask", "/sweeps/synthetic", "/sweeps"])
def test_no_heading_is_left_out(viewer, path):
    page = viewer.get(path, headers={"accept": "text/html"}).text
    levels = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert 1 in levels
    main = levels[levels.index(1) :]
    assert all(after <= before + 1 for before, after in pairwise(main)), levels


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/nothing.json", 404, "Not Found"),
        ("/sweeps/none.json", 404, "there is no sweep 'none' in this store"),
        ("/runs/none.json", 404, "there is no training run 'none'"),
        ("/runs/'; DROP TABLE x.json", 404, "there is no training run"),
        ("/ask/acuracy.json", 404, "there is no question 'acuracy'.* there are: accuracy"),
        ("/ask/accuracy.json?seed=1", 400, "unknown parameter of query accuracy 'seed'"),
        ("/ask/accuracy.json?limit=3", 400, "unknown parameter of query accuracy 'limit'"),
        ("/ask/accuracy.json?confidence=2", 400, "`0 < confidence < 1` must hold"),
        ("/ask/accuracy.csv?sweep=none", 400, "unknown sweep 'none'. .*synthetic"),
        ("/ask/accuracy.json?view=tree", 422, "view"),
        ("/ask.json?sql=--+mine%0ASELECT+no+FROM+trials", 400, r"no.*\n\nLINE 2: SELECT no FROM trials\n {15}\^\^$"),
        ("/compare.json?sweep=none", 400, "unknown sweep 'none'"),
        ("/sweeps/none/report", 404, "there is no sweep"),
        ("/static/passwd", 404, "there is no file"),
        ("/static/..%2f..%2fapp.py", 404, "Not Found"),
    ],
)
def test_errors_have_one_form(viewer, path, status, error):
    response = viewer.get(path)
    body = response.json()
    assert response.status_code == status
    assert set(ERROR_SCHEMA["required"]) <= set(body)
    assert (body["ok"], body["status"]) == (False, status)
    assert re.search(error, body["error"])


def test_a_person_gets_a_page_for_an_error_and_a_door_without_a_token(served, viewer):
    page = viewer.get("/sweeps/none", headers={"accept": "text/html"})
    assert page.status_code == 404
    assert "there is no sweep &#39;none&#39;" in page.text
    with served.client() as nobody:
        response = nobody.get("/ask?sql=SELECT+1", headers={"accept": "text/html"})
        assert response.status_code == 303
        assert response.headers["location"] == "/signin?next=%2Fask%3Fsql%3DSELECT%2B1"
        # A question as long as they may be, in an address that is quoted once more.
        question = "/ask?sql=SELECT+" + "%281%29%2C+" * 1800 + "1"
        door = nobody.get(question, headers={"accept": "text/html"}).headers["location"]
        assert len(door) > 30_000
        assert nobody.get(door, headers={"accept": "text/html"}).status_code == 200


def test_every_answer_carries_the_headers(viewer):
    for path in ("/sweeps", "/sweeps.json", "/static/live.js", "/nothing", "/ask.csv?sql=SELECT 1"):
        headers = viewer.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"], path
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    report = viewer.get("/sweeps/synthetic/report")
    assert "default-src 'none'" in report.headers["content-security-policy"]
    assert "connect-src" not in report.headers["content-security-policy"]


def test_what_goes_wrong_carries_the_headers_too(tmp_path):
    store = Store.create(tmp_path / "store")
    hub = make_hub(store, Tokens(Records(store.files)), data_root=tmp_path, settings=Settings(), loopback=True)
    app = make_app(hub)

    @app.get("/wrong.json")
    def wrong():
        raise RuntimeError("a secret of the server's")

    async def ask():
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as browser:
            return await browser.get("/wrong.json")

    response = asyncio.run(ask())
    assert response.status_code == 500
    assert response.json() == {
        "ok": False, "error": "something went wrong here; the service's log says what", "status": 500,
    }  # fmt: skip
    assert "script-src 'self'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"


def test_what_is_late_says_when_to_ask_again(tmp_path):
    store = Store.create(tmp_path / "store")
    hub = make_hub(store, Tokens(Records(store.files)), data_root=tmp_path, settings=Settings(), loopback=True)
    app = make_app(hub)

    @app.get("/late.json")
    def late():
        raise LateError("not there yet")

    async def ask():
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as browser:
            return await browser.get("/late.json")

    response = asyncio.run(ask())
    assert (response.status_code, response.json()["error"]) == (503, "not there yet")
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("form", "status"),
    [({"spec": "name: mine\ndata: digits\nmodels: resnet8\n"}, 403), ({"spec": "name: x"}, 422)],
)
def test_what_the_form_is_refused_is_refused_as_to_programs(tmp_path, form, status):
    store = Store.create(tmp_path / "store")
    tokens = Tokens(Records(store.files))
    token = tokens.create("ben", Role.RUNNER)
    hub = make_hub(store, tokens, data_root=tmp_path, settings=Settings(), loopback=True)
    hub.jobs.submit("mine", form["spec"], by="ada", limit=3)

    async def ask():
        transport = httpx.ASGITransport(make_app(hub), client=("127.0.0.1", 1234))
        headers = {"authorization": f"Bearer {token}", "accept": "text/html"}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", headers=headers) as browser:
            return await browser.post("/new", data=form), await browser.post("/sweeps.json", json=form)

    page, told = asyncio.run(ask())
    assert (page.status_code, told.status_code) == (status, status)
    acts = hub.audit.latest(5)
    if status == 403:
        assert "it is ada&#39;s" in page.text
        assert form["spec"] in page.text
        assert {act["path"] for act in acts} == {"POST /new", "POST /sweeps.json"}
        assert {(act["who"], act["what"], act["why"]) for act in acts} == {("ben", "refused", told.json()["error"])}


def test_where_nobody_can_listen_is_said_with_the_option_to_change():
    with pytest.raises(BnsweepError, match=r"cannot listen on a\.\.b:0: .*; choose another --host"):
        _listen("a..b", 0)
    with pytest.raises(BnsweepError, match=r"cannot listen on nosuch\.invalid:0: .*; choose another --host"):
        _listen("nosuch.invalid", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BnsweepError, match=f"cannot listen on 127.0.0.1:{port}: .*; choose another --port"):
            _listen("127.0.0.1", port)


def test_a_store_that_fails_while_a_token_is_looked_up_is_said(tmp_path):
    store = Store.create(tmp_path / "store")
    tokens = Tokens(Records(store.files))
    token = tokens.create("ada", Role.VIEWER)
    hub = make_hub(store, Tokens(Records(store.files)), data_root=tmp_path, settings=Settings(), loopback=True)
    (tmp_path / "store/service/tokens/0badf00d.json").write_text("{")

    async def ask():
        transport = httpx.ASGITransport(make_app(hub), client=("127.0.0.1", 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as browser:
            return await browser.get("/sweeps.json", headers={"authorization": f"Bearer {token}"})

    response = asyncio.run(ask())
    assert response.status_code == 503
    assert "0badf00d.json is damaged" in response.json()["error"]
    assert response.headers["x-content-type-options"] == "nosniff"


def test_losses_that_are_not_a_number_are_null_for_programs(viewer):
    """NaN is no JSON: browsers and jq refuse the whole answer."""
    rows = viewer.get("/sweeps/synthetic.json").json()["rows"]
    diverged = next(row["run_id"] for row in rows if row["status"] == "diverged")
    response = viewer.get(f"/runs/{diverged}.json")
    content = json.loads(response.content, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert content["run"]["train_loss"] is None
    assert [epoch["train_loss"] for epoch in content["epochs"]] == [None]


def test_names_of_a_store_cannot_become_markup(tmp_path):
    from bnsweep.analysis.page import charts_text
    from bnsweep.service.look import link

    assert link("sweeps", "a/b?<script>") == "/sweeps/a%2Fb%3F%3Cscript%3E"
    assert link("sweeps", "x.json") == "/sweeps/x.json.html"
    assert link("ask", "paired", a="all", b="") == "/ask/paired?a=all"
    hostile = charts_text({"</script><script>alert(1)</script>": {}})
    assert "<" not in hostile
    assert json.loads(hostile)["specs"] == {"</script><script>alert(1)</script>": {}}


def test_the_settings_are_documented_and_hold_their_rules(tmp_path):
    """One table for the command line, the document and this test."""
    from pathlib import Path

    from bnsweep.errors import InputError, UnknownNameError
    from bnsweep.service.settings import SETTINGS

    text = (Path(__file__).parent.parent.parent / "docs" / "service.md").read_text()
    for setting in SETTINGS:
        assert f"| `{setting.name}` | {setting.default:,.10g} | {setting.meaning} |" in text
        assert Settings([(setting.name, setting.least)])[setting.name] == setting.least
        with pytest.raises(InputError, match=rf"`{setting.name} >= {setting.least:g}` must hold, but got"):
            Settings([(setting.name, setting.least - 0.05)])
        with pytest.raises(InputError, match=f"`{setting.name}` takes a finite number, but got inf"):
            Settings([(setting.name, float("inf"))])
    with pytest.raises(UnknownNameError, match="unknown setting 'sql_second'. Did you mean 'sql_seconds'"):
        Settings([("sql_second", 1)])


def test_a_token_is_revoked_by_a_name_that_may_be_meant(tmp_path):
    from bnsweep.errors import UnknownNameError
    from bnsweep.service.auth import Role, Tokens
    from bnsweep.service.records import Records
    from bnsweep.store.store import Store

    tokens = Tokens(Records(Store.create(tmp_path / "store").files))
    with pytest.raises(UnknownNameError, match=r"^unknown token 'none'\. There is none yet\.$"):
        tokens.revoke("none")
    tokens.create("there", Role.VIEWER)
    with pytest.raises(UnknownNameError, match=r"^unknown token 'ther'\. Did you mean 'there'\? Valid: there$"):
        tokens.revoke("ther")


def test_a_user_s_rate_is_limited_and_no_one_else_s(rows_store, tokens):
    import served as helpers

    few = (
        "--setting",
        "requests_per_s",
        0.5,
        "--setting",
        "requests_at_once",
        12,
        "--setting",
        "sign_ins_per_minute",
        4,
    )
    with helpers.service(rows_store, *few) as running:
        with running.client(tokens["viewer"]) as busy, running.client(tokens["runner"]) as other:
            answers = [busy.get("/static/live.js").status_code for _ in range(16)]
            assert answers == [200] * 12 + [429] * 4
            refused = busy.get("/sweeps.json")
            assert (refused.status_code, refused.json()["ok"]) == (429, False)
            assert int(refused.headers["retry-after"]) >= 1
            assert other.get("/sweeps.json").status_code == 200
            assert busy.get("/healthz").status_code == 200
            assert other.get("/audit.json").status_code == 403
            assert other.get("/ask/accuracy.json?sweep=synthetic&confidence=0.9").status_code == 200
        with running.client(tokens["admin"]) as admin:
            long = admin.post("/read.json", content=b"x" * 260_000, headers={"content-type": "application/json"})
            assert long.status_code == 413

            def endless():
                for _ in range(30):
                    yield b"x" * 100_000

            chunked = {"content-type": "application/json"}
            refused = admin.post("/read.json", content=endless(), headers=chunked)
            assert refused.status_code == 413
            assert refused.json()["error"] == "a request's body has at most 250,000 bytes"
            # Guesses, in the header or at the door, are counted together, and only they are turned away.
            with running.client("bnsweep-00000000-guess") as guesser:
                found = [guesser.get("/sweeps.json").status_code for _ in range(6)]
                assert found == [401] * 4 + [429] * 2
                assert "too many wrong tokens" in guesser.get("/sweeps.json").json()["error"]
            with running.client() as door:
                page = door.get("/signin", headers={"accept": "text/html"}).text
                proof = page.partition('name="proof" value="')[2].partition('"')[0]
                form = {"proof": proof, "token": "bnsweep-00000000-guess", "next": "//evil.example"}
                assert door.post("/signin", data=form).status_code == 429
            assert admin.get("/sweeps.json").status_code == 200
            acts = admin.get("/audit.json").json()["acts"]
            assert [act["why"] for act in acts[:4]] == ["wrong token"] * 4
            asked, forbidden = acts[4:6]
            assert (asked["who"], asked["query"], asked["with"]) == ("runner", "accuracy", {"confidence": "0.9"})
            assert (forbidden["who"], forbidden["what"]) == ("runner", "refused")
            assert forbidden["path"] == "GET /audit.json"
            assert "this takes the role admin" in forbidden["why"]


def test_signing_in_leads_nowhere_else(served, tokens):
    for target, then in (
        ("/ask?sql=1", "/ask?sql=1"),
        ("//evil.example", "/sweeps"),
        ("https://evil.example", "/sweeps"),
    ):
        with served.client() as client:
            page = client.get("/signin", headers={"accept": "text/html"}).text
            proof = page.partition('name="proof" value="')[2].partition('"')[0]
            answer = client.post("/signin", data={"proof": proof, "token": tokens["viewer"], "next": target})
            assert (answer.status_code, answer.headers["location"]) == (303, then)
            assert client.get("/sweeps.json").status_code == 200
            assert client.post("/signout", data={"proof": proof}).status_code == 303
            assert client.get("/sweeps.json").status_code == 401


@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.7"}, 401),
        ("127.0.0.1", {"via": "1.1 proxy"}, 401),
        ("127.0.0.1", {"host": "rebound.example"}, 401),
        ("203.0.113.7", {}, 401),
    ],
)
def test_without_tokens_only_this_machine_s_own_user_is_admin(tmp_path, client, headers, status):
    """Through a proxy, or by a name of a stranger's, a request comes from anywhere."""
    store = Store.create(tmp_path / "store")
    hub = make_hub(store, Tokens(Records(store.files)), data_root=tmp_path, settings=Settings(), loopback=True)

    async def ask():
        transport = httpx.ASGITransport(make_app(hub), client=(client, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as browser:
            return await browser.get("/audit.json", headers=headers)

    assert asyncio.run(ask()).status_code == status
