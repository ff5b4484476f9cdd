"""The form of a new sweep: what it says is in the file, and what is not filled in is the file's own."""

import pytest

from bnsweep.errors import InputError
from bnsweep.experiment.files import read_text
from bnsweep.experiment.reading import parse_spec
from bnsweep.service.form import FIELDS, fields_of, written

BARE = "name: bare\ndata: digits\nmodels: resnet8\n"


def test_defaults_are_the_spec_s():
    """What a field shows where the file says nothing is what then holds."""
    given = [(field.name, field.default) for field in FIELDS if field.default]
    text = written(BARE, was=BARE, given=given)
    assert len(text.splitlines()) > 3
    assert parse_spec(text) == parse_spec(BARE)


def test_only_what_was_changed_is_written():
    text = read_text("quickstart")
    before = [(each["field"].name, each["value"]) for each in fields_of(text)]
    assert written(text, was=text, given=before) == text
    edited = text.replace("trials: 8", "trials: 80  # by hand")
    again = written(edited, was=text, given=[*before, ("epochs", "2")])
    assert again == edited.replace("epochs: 10", "epochs: 2")
    assert written(text, was=text, given=[("epochs", "")]) == text.replace("epochs: 10", "epochs: 30")
    assert written(text, was=text, given=[("nothing", "2")]) == text


def test_a_value_that_is_none_names_its_field():
    with pytest.raises(InputError, match=r"Noise levels η: '\]' is not a value"):
        written(BARE, was=BARE, given=[("eta", "]")])
    with pytest.raises(InputError, match="Images: a sweep must have one"):
        written(BARE, was=BARE, given=[("data", "")])
    assert fields_of("a: [") == []


def test_the_page_as_json(runner):
    body = runner.get("/new.json", params={"ready": "quickstart"}).json()
    assert (body["ok"], body["spec"]) == (True, read_text("quickstart"))
    assert body["fields"]["placements"] == "all, {first: 3}, none"
    assert "paper-cifar10" in body["ready"]
    assert runner.get("/new.json", params={"sweep": "none"}).json()["status"] == 404


def test_the_page_without_script(runner):
    """A browser without script posts the form, and gets the file and its form back."""
    page = runner.get("/new", headers={"accept": "text/html"}).text
    assert 'value="all, {first: 3}, none"' in page
    form = {"spec": BARE.replace("\n", "\r\n"), "was": BARE, "field": ["epochs", "eta"], "value": ["4", "0, 0.2"]}
    page = runner.post("/new/form", data=form, headers={"accept": "text/html"})
    assert page.status_code == 200
    assert f"{BARE}training: {{epochs: 4}}\neta: [0, 0.2]\n" in page.text
    bad = runner.post("/new/form", data={**form, "value": ["4", "]"]}, headers={"accept": "text/html"})
    assert bad.status_code == 422
    assert "Noise levels η: &#39;]&#39; is not a value" in bad.text
