"""The compare page's numbers against SciPy's, from the rows themselves."""

from collections import defaultdict

import numpy as np
import pytest
import served as helpers
import synthetic
from scipy.stats import sem, t

FIELDS = ("placement", "model", "targets", "bn_treatment", "eta")


def draws(sweep, **only):
    """Accuracies: by cell, then by training seed, then by draw."""
    found = defaultdict(lambda: defaultdict(dict))
    for row in synthetic.tables(**sweep)["trials"].to_pylist():
        if all(row[name] == value for name, value in only.items()):
            cell = tuple(float(row[name]) if name == "eta" else row[name] for name in FIELDS if name not in only)
            found[cell][row["train_seed"]][row["trial"], row["noise_seed"]] = row["accuracy"]
    return found


def paired(a, b):
    """Mean difference and half of its 95 % interval, in points; numbers of seeds and of pairs of draws."""
    by_seed = [
        [a[seed][draw] - b[seed][draw] for draw in a[seed].keys() & b[seed].keys()] for seed in a.keys() & b.keys()
    ]
    sample = [np.mean(each) for each in by_seed] if len(by_seed) > 1 else by_seed[0]
    spread = len(sample) > 1 and np.ptp(sample) > 1e-9  # differences that all agree say nothing of theirs
    half = t.ppf(0.975, len(sample) - 1) * sem(sample) if spread else None
    return 100 * np.mean(sample), half and 100 * half, len(by_seed), sum(map(len, by_seed))


def check(rows, a, b, names):
    cells = a.keys() & b.keys()
    assert len(rows) == len(cells) > 0
    for row in rows:
        cell = tuple(row[name] for name in names)
        mean, half, seeds, n = paired(a[cell], b[cell])
        assert (row["seeds"], row["n"]) == (seeds, n), cell
        assert row["difference_pct"] == pytest.approx(mean, abs=1e-9), cell
        if half is None:
            assert (row["low_pct"], row["high_pct"], row["level"]) == (None, None, None)
            continue
        assert row["low_pct"] == pytest.approx(mean - half, abs=1e-9), cell
        assert row["high_pct"] == pytest.approx(mean + half, abs=1e-9), cell
        assert row["level"] == ("seeds" if seeds > 1 else "draws")


@pytest.mark.parametrize(("other", "seeds"), [("again", 2), ("once", 1)])
def test_two_sweeps(viewer, other, seeds):
    """`again` has more draws than `synthetic`, of which only the common ones count; `once` has one training seed."""
    answer = viewer.get("/compare.json", params={"sweep": "synthetic", "other": other}).json()
    check(answer["rows"], draws(helpers.SWEEPS["synthetic"]), draws(helpers.SWEEPS[other]), FIELDS)
    assert {row["seeds"] for row in answer["rows"]} == {seeds}
    assert {row["sweep"] for row in answer["each_run"]} == {"synthetic", other}
    back = viewer.get("/compare.json", params={"sweep": other, "other": "synthetic"}).json()
    assert [row["difference_pct"] for row in back["rows"]] == pytest.approx(
        [-row["difference_pct"] for row in answer["rows"]]
    )


@pytest.mark.parametrize("sweep", ["again", "once"])
def test_two_placements(viewer, sweep):
    answer = viewer.get("/compare.json", params={"sweep": sweep, "a": "all", "b": "none"}).json()
    sides = [draws(helpers.SWEEPS[sweep], placement=placement) for placement in ("all", "none")]
    check(answer["rows"], *sides, FIELDS[1:])


def test_each_run_is_a_point_of_the_chart(viewer):
    answer = viewer.get("/compare.json", params={"sweep": "again"}).json()
    trained = {row["run_id"]: row for row in synthetic.tables(**helpers.SWEEPS["again"])["runs"].to_pylist()}
    assert {row["run_id"] for row in answer["each_run"]} == set(trained)
    for row in answer["each_run"]:
        run = trained[row["run_id"]]
        assert row["baseline_pct"] == pytest.approx(100 * run["test_correct"] / run["test_images"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"a": "nonsense"}, ["no rows: parameter a: unknown placement 'nonsense'. "]),
        ({"a": "x", "b": "y"}, ["no rows: parameter a: ", "no rows: parameter b: "]),
        ({"sweep": "again", "model": "vgg16"}, ["no rows: parameter model: unknown network 'vgg16'. Valid: resnet8"]),
        ({"sweep": "again", "other": "once", "model": "vgg16"}, ["no rows: parameter model: unknown network 'vgg16'"]),
        ({"sweep": "again"}, []),
    ],
)
def test_an_empty_comparison_says_why(viewer, asked, said):
    answer = viewer.get("/compare.json", params=asked).json()
    assert len(answer["notes"]) == len(said)
    for note, start in zip(answer["notes"], said, strict=True):
        assert note.startswith(start)
    page = viewer.get("/compare", params=asked).text
    assert page.count("no rows: ") == len(said)
