"""Questions to stores of a few rows, with answers that can be reckoned by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from handmade import Handmade

from bnsweep.analysis.claims import Verdict, judge
from bnsweep.analysis.database import Database, open_database
from bnsweep.store.store import Store

Opened = Callable[[Handmade], Database]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Opens rows as a store's."""

    def _open(made: Handmade) -> Database:
        store = Store.create(tmp_path / f"store{len(list(tmp_path.iterdir()))}")
        store.commit(made.tables)
        return open_database(store, threads=1)

    return _open


def noisy(database: Database, query: str, **parameters: object) -> list[dict[str, object]]:
    """The rows above eta 0."""
    return [row for row in database.query(query, **parameters).to_dicts() if row["eta"] > 0]


def verdict(database: Database, name: str) -> Verdict:
    return next(each for each in judge(database) if each.name == name)


def test_a_draw_that_two_sweeps_hold_counts_once(opened: Opened) -> None:
    """The same noise on the same networks, scored in batches of another size."""
    answers = []
    for sweeps in (("one",), ("one", "two")):
        made = Handmade()
        for sweep in sweeps:
            made.cell(0.9, [0.50, 0.54, 0.52], sweep=sweep, mask="11")
            made.cell(0.9, [0.55, 0.56, 0.60], sweep=sweep, mask="00")
        database = opened(made)
        (paired,) = noisy(database, "paired")
        assert (paired["n"], paired["seeds"]) == (3, 1)
        assert database.sql("SELECT count(*) AS n FROM trial WHERE eta > 0").rows == [(6,)]
        assert len(noisy(database, "draws")) == 6
        assert [row["n"] for row in noisy(database, "accuracy")] == [3, 3]
        # what was computed is told all the same
        assert sum(row["trials"] for row in database.query("work").to_dicts()) == 8 * len(sweeps)
        assert sum(row["trials"] or 0 for row in database.query("timeline").to_dicts()) == 8 * len(sweeps)
        answers.append({name: pytest.approx(value) for name, value in paired.items() if isinstance(value, float)})
    assert answers[0]["difference_pct"] == 100 * (0.52 - 0.57)
    assert answers[0] == {name: value.expected for name, value in answers[1].items()}


def test_a_mean_over_draws_is_one_of_networks_first(opened: Opened) -> None:
    """Two networks with 4 and 1 draws at the same eta: 3 of 4 draws of the first are lost, none of the second."""
    made = Handmade()
    lost = [1000, 1000, 1000, 0]
    made.cell(0.9, [0.1, 0.1, 0.1, 0.7], seed=0, targets="all", nonfinite=lost)
    made.cell(0.9, [0.8], seed=1, targets="all")
    database = opened(made)
    (told,) = database.query("nonfinite").to_dicts()
    assert (told["lost"], told["n"], told["lost_pct"]) == (3, 5, 37.5)
    assert told["accuracy_pct"] == pytest.approx((25 + 80) / 2)  # pooled over draws: 36
    assert told["finite_pct"] == pytest.approx((70 + 80) / 2)
    assert told["lost_accuracy_pct"] == pytest.approx(10)
    (accuracy,), (loss,) = noisy(database, "accuracy"), noisy(database, "target_attribution")
    assert accuracy["accuracy_pct"] == pytest.approx(told["accuracy_pct"])
    assert accuracy["nonfinite_pct"] == loss["nonfinite_pct"] == pytest.approx(37.5)  # pooled over images: 60


def test_an_increment_is_that_of_the_series_own_step(opened: Opened) -> None:
    """The third network has no rows for noise on weights yet: beyond nothing, noise on all costs 19 points."""
    made = Handmade()
    for seed in range(3):
        made.cell(0.9, [0.80, 0.82], seed=seed, targets="weights", measured=seed < 2)
        made.cell(0.9, [0.70, 0.71 + 0.01 * seed], seed=seed, targets="all")
    weights, everything = noisy(opened(made), "target_attribution")
    assert (weights["targets"], weights["beyond"], weights["seeds"]) == ("weights", None, 2)
    assert (everything["beyond"], everything["seeds"]) == ("weights", 3)
    assert everything["loss_pct"] == pytest.approx(19)
    assert everything["added_pct"] == pytest.approx(10.25)  # 10.5 and 10, of the two that have both
    # Student's t with one degree of freedom, 12.706, times 0.25, the standard error of the mean of two 0.5 apart
    assert everything["added_high_pct"] == pytest.approx(10.25 + 12.7062047 * 0.25)


def test_an_increment_of_one_network_has_no_interval_over_networks(opened: Opened) -> None:
    made = Handmade()
    for seed in range(2):
        made.cell(0.9, [0.80, 0.82], seed=seed, targets="weights", measured=seed < 1)
        made.cell(0.9, [0.70, 0.73 + 0.01 * seed], seed=seed, targets="all")
    _, everything = noisy(opened(made), "target_attribution")
    assert (everything["level"], everything["seeds"]) == ("seeds", 2)
    assert everything["added_pct"] == pytest.approx(9.5)
    assert everything["added_low_pct"] is None


def test_a_treatment_in_several_sizes_is_there(opened: Opened) -> None:
    made = Handmade()
    for seed in range(4):
        for mask, keeps in (("11", 0.5), ("00", 0.7)):
            for treatment, images in (("stale", 0), ("folded", 0), ("recalibrated", 128), ("recalibrated", 1000)):
                lucky = keeps + 0.01 * seed * (mask == "11")
                made.cell(0.9, [lucky], mask=mask, seed=seed, bn_treatment=treatment, recalibration_images=images)
    found = verdict(opened(made), "treatments")
    assert (found.verdict, found.decide) == ("supported", "")
    assert {row.part for row in found.evidence} >= {"BN recalibrated on 128 images", "BN recalibrated on 1000 images"}


def test_a_part_that_another_one_begins_like_is_still_missing(opened: Opened) -> None:
    """Noise on weights and biases does not stand for noise on weights."""
    made = Handmade()
    for seed in range(4):
        for mask, keeps in (("11", 0.5), ("00", 0.7)):
            for targets in ("weights+bias", "weights+bias+affine", "all"):
                made.cell(0.9, [keeps + 0.01 * seed * (mask == "11")], mask=mask, seed=seed, targets=targets)
    found = verdict(opened(made), "targets")
    assert found.verdict == "undecided"
    assert "noise on weights: undecided, no rows" in found.reason
    assert "(missing: noise on weights)" in found.decide


def on_two_sets(recipes: dict[str, dict[str, float]]) -> Handmade:
    """A_avr of four networks by data set and recipe; the easy set has 10 classes, the hard one 100."""
    made = Handmade()
    for dataset, classes in (("easy", 10), ("hard", 100)):
        for recipe, keeps in recipes[dataset].items():
            for seed in range(4):
                luck = 0.003 * seed * (dataset == "hard")
                clean = {"dataset": dataset, "classes": classes, "recipe": recipe, "seed": seed}
                made.cell(0.8, [keeps + luck], **clean)
    return made


def test_a_task_is_compared_within_a_recipe(opened: Opened) -> None:
    """Recipe a keeps less on the harder set; recipe b, of the easy set alone, keeps least of all."""
    found = verdict(opened(on_two_sets({"easy": {"a": 0.8, "b": 0.2}, "hard": {"a": 0.6}})), "task")
    assert found.verdict == "supported"
    (row,) = found.evidence
    assert (row.seeds, row.n) == (4, 8)
    assert row.change_pct == pytest.approx(100 * (0.6 + 0.0045 - 0.8) / 0.8)


def test_several_shared_recipes_are_told_apart(opened: Opened) -> None:
    made = on_two_sets({"easy": {"a": 0.8, "b": 0.4}, "hard": {"a": 0.6, "b": 0.3}})
    found = verdict(opened(made), "task")
    assert found.verdict == "supported"
    assert sorted(round(row.change_pct, 1) for row in found.evidence) == [-24.4, -11.9]
    assert len({row.model for row in found.evidence}) == 2


def test_data_sets_without_a_shared_recipe_decide_nothing(opened: Opened) -> None:
    found = verdict(opened(on_two_sets({"easy": {"a": 0.8}, "hard": {"b": 0.6}})), "task")
    assert found.verdict == "undecided"
    assert found.reason.startswith("the data sets share no recipe and training seed: it takes the same networks")
    assert not found.evidence
    alone = verdict(opened(on_two_sets({"easy": {"a": 0.8}, "hard": {}})), "task")
    assert alone.reason.startswith("no rows: it takes the same networks by the same recipe")


def test_a_data_set_of_two_names_has_one_label(opened: Opened) -> None:
    made = Handmade()
    for mask, keeps in (("11", 0.5), ("10", 0.55), ("01", 0.6), ("00", 0.7)):
        for sweep, dataset in (("one", "ten"), ("two", "longer-name")):
            made.cell(0.9, [keeps, keeps + 0.01], sweep=sweep, dataset=dataset, fingerprint="same", mask=mask)
    for site in (1, 2):
        named = {"model": "resnet8", "bn_sites": 2, "site": site, "path": f"bn{site}", "channels": 1, "stage": 1}
        made.rows["sites"].append({"dataset": "longer-name", **named, "shortcut": False})
    database = opened(made)
    assert [(row["dataset"], row["path"]) for row in database.query("site_importance").to_dicts()] == [
        ("ten", "bn1"),
        ("ten", "bn2"),
    ]
    covered = database.query("coverage", dataset="ten").to_dicts()
    assert ({row["dataset"] for row in covered}, len(covered)) == ({"ten"}, 8)
    paired = database.query("paired_sweeps", a="one", b="two").to_dicts()
    assert {row["dataset"] for row in paired} == {"ten"}


@pytest.mark.parametrize(("seeds", "firm"), [((1, 1), False), ((3, 1), False), ((3, 3), True)])
def test_a_change_between_single_networks_has_no_interval(seeds: tuple[int, int], firm: bool, opened: Opened) -> None:
    made = Handmade()
    for model, keeps, count in zip(("resnet8", "resnet20"), (0.5, 0.4), seeds, strict=True):
        for seed in range(count):
            draws = [keeps + 0.01 * seed + step for step in (0.0, 0.02, 0.05)]
            made.cell(0.9, draws, model=model, mask="1" * (1 + (model == "resnet20")), seed=seed)
    shallow, deep = opened(made).query("depth_trend").to_dicts()
    assert [row["level"] for row in (shallow, deep)] == ["seeds" if count > 1 else "draws" for count in seeds]
    assert deep["previous_model"] == "resnet8"
    assert (deep["change_low_pct"] is not None) == (deep["change_high_pct"] is not None) == firm
    if firm:  # equal spreads of 0.01 over seeds, t of two degrees of freedom: 4.3027 * sqrt(2 / 3) of 0.01 / 0.9
        assert deep["change_high_pct"] - deep["change_pct"] == pytest.approx(4.3026527 * (2 / 3) ** 0.5 / 0.9)
