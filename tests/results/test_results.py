"""What docs/results*.md and the README's first screen say is what the published rows give."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from bnsweep.analysis.queries import QUERIES
from bnsweep.store.store import Store
from bnsweep.store.verify import verify
from tests.results.published import ROOT, STORES, Answers
from tests.results.tables import DOCUMENTS, MARKED, TABLES, filled


@pytest.fixture(scope="module")
def ask() -> Iterator[Answers]:
    with Answers() as answers:
        yield answers


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_table_of_a_document_is_what_the_rows_give(name, ask):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert MARKED.search(text)
    assert filled(text, ask) == text, "write it anew: python -m tests.results.tables"


def test_the_commands_under_the_tables_can_be_given():
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS)
    commands = re.findall(r"`bnsweep query (\w+) --store (\S+) --sweep ([\w-]+)`", text)
    assert commands
    for query, store, sweep in commands:
        assert (query in QUERIES, store) == (True, {**STORES, "SWEEP": "STORE"}[sweep]), (query, store, sweep)


def test_every_table_stands_in_a_document():
    marked = [match[2] for name in DOCUMENTS for match in MARKED.finditer((ROOT / name).read_text(encoding="utf-8"))]
    assert sorted(marked) == sorted(TABLES)


@pytest.mark.parametrize("location", sorted(set(STORES.values())))
def test_the_published_rows_are_whole_and_small(location):
    store = Store.open(ROOT / location)
    assert {problem.kind for problem in verify(store).problems} <= {"network"}  # they are not published
    assert sum(table["bytes"] for table in store.summary()) < 4_000_000
    assert "networks" not in {path.name for path in (ROOT / location).iterdir()}
