"""Verdicts: the paper's own tables, a made-up sweep whose truth is known, and what would decide the open ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import synthetic

from bnsweep.analysis.claims import CLAIMS, judge
from bnsweep.analysis.database import QUERIES, Database, open_database, open_paper
from bnsweep.experiment.reading import parse_spec
from bnsweep.store.store import Store


def verdicts(database: Database) -> dict[str, str]:
    return {verdict.name: verdict.verdict for verdict in judge(database)}


def test_the_papers_tables_give_the_papers_verdicts() -> None:
    """Decided where ten networks agree; undecided where the tables have no such rows."""
    with open_paper(threads=1) as paper:
        found = judge(paper)
    by_name = {verdict.name: verdict for verdict in found}
    assert {name for name, verdict in by_name.items() if verdict.verdict == "supported"} == {
        "baseline",
        "noise",
        "normalized",
        "depth",
        "task",
    }
    assert {verdict.verdict for verdict in found} == {"supported", "undecided"}
    assert all(row.low_pct is None for verdict in found for row in verdict.evidence)
    # ResNet_20 on CIFAR-100 keeps a little more with BN at 1 %: 66.61 / 66.69 against 62.90 / 63.07.
    # Sign test, 9 of 10.
    assert "eta 0.01: supported, 9 of 10" in by_name["normalized"].reason
    assert "p = 0.021" in by_name["normalized"].reason


@pytest.mark.parametrize("width", [None, 72])
def test_a_long_reason_is_wrapped_below_its_first_word(width: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")  # as wide as the terminal, unless told
    with open_paper(threads=1) as paper:
        found = {verdict.name: verdict for verdict in judge(paper)}
    assert len(found["normalized"].reason) > 300
    text = found["normalized"].to_text(width=width)
    assert max(map(len, text.splitlines())) <= (width or 90)
    lines = text.splitlines()
    assert [line[:14].strip() for line in lines if line[:14].strip()] == ["SUPPORTED", "because", "evidence"]
    told = " ".join(line[14:] for line in lines[1:-1])
    assert told == found["normalized"].reason


def test_single_networks_of_one_kind_decide_nothing(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    store.commit(synthetic.tables(trials=4, seeds=1, models=("resnet8",), partial=False, failures=False))
    with open_database(store, threads=1) as database:
        found = {verdict.name: verdict for verdict in judge(database)}
    assert found["baseline"].verdict == "undecided"
    assert found["baseline"].evidence[0].low_pct is None
    assert "at least 5 training seeds" in found["baseline"].decide


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Database:
    store = Store.create(tmp_path_factory.mktemp("claims") / "store")
    store.commit(synthetic.tables(trials=12, seeds=4, models=("resnet8", "resnet20", "resnet32"), failures=False))
    return open_database(store, threads=1)


def test_a_truth_that_is_known_is_found(seeded: Database) -> None:
    found = verdicts(seeded)
    # The formula: BN gives 4 points of baseline, moves the cliff down, the more the more layers, in every cell.
    supported = {"baseline", "noise", "depth", "layers", "targets", "treatments"}
    assert {name for name in supported if found[name] != "supported"} == set()
    assert found["task"] == "undecided"  # one data set
    assert "contradicted" not in found.values()


def test_the_other_way_round_is_contradicted(tmp_path: Path) -> None:
    tables = synthetic.tables(trials=6, seeds=5, models=("resnet8",), failures=False)
    for name in ("points", "runs", "trials"):  # swap the labels: now BN everywhere is what stands the noise
        rows = tables[name].to_pylist()
        for row in rows:
            kept = {"all": ("none", 0), "none": ("all", 7)}.get(row["placement"], (row["placement"], row["bn_kept"]))
            row["placement"], row["bn_kept"] = kept
            row["bn_mask"] = {"all": "1" * 7, "none": "0" * 7}.get(kept[0], row["bn_mask"])
        tables[name] = type(tables[name]).from_pylist(rows, schema=tables[name].schema)
    store = Store.create(tmp_path / "store")
    store.commit(tables)
    with open_database(store, threads=1) as database:
        found = verdicts(database)
    assert (found["baseline"], found["normalized"], found["noise"]) == ("contradicted", "contradicted", "supported")


def test_what_would_decide_is_a_sweep_to_run(seeded: Database) -> None:
    with open_paper(threads=1) as paper:
        found = [*judge(paper), *judge(seeded)]
    undecided = [verdict for verdict in found if verdict.verdict == "undecided"]
    assert undecided
    for verdict in undecided:
        assert verdict.decide
        spec = parse_spec(verdict.spec)
        parsed = spec[0] if isinstance(spec, tuple) else spec
        assert len(parsed.train_seeds) >= 5
    assert all(not verdict.spec for verdict in found if verdict.verdict != "undecided")


def test_verdicts_can_be_read_by_programs_and_people(seeded: Database) -> None:
    for verdict in judge(seeded):
        json.dumps(verdict.to_dict())
        for width in (40, 100, 1000):
            assert verdict.text in " ".join(verdict.to_text(width=width).split())
        assert verdict.query in QUERIES
    assert {claim.query for claim in CLAIMS} == {name for name in QUERIES if name.startswith("claim_")}


def test_an_interval_on_the_other_side_that_is_too_narrow_for_all_comparisons_is_said_to_be_that() -> None:
    """Of ResNet-20 on CIFAR-100, BN estimated anew: 5.4 points ahead, 2.2 to 8.6 by itself, -0.3 to 11.1 of three."""
    store = Store.open(Path(__file__).parent.parent.parent / "results/cifar100-sgd")
    with open_database(store) as database:
        (found,) = (verdict for verdict in judge(database) if verdict.name == "treatments")
    (row,) = (row for row in found.evidence if row.part.startswith("BN recalibrated"))
    assert row.low_pct is not None
    assert row.low_pct > 0
    assert found.verdict == "undecided"
    assert "but 1 on the other side by its own interval, not by one that allows for all comparisons" in found.reason
