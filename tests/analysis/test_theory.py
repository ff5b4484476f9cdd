"""The paper's explanation on rows with a known rank correlation."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr
from synthetic import tables

from bnsweep.analysis.database import open_database
from bnsweep.analysis.report import write_report
from bnsweep.analysis.theory import explanation
from bnsweep.store.schema import SCHEMAS
from bnsweep.store.store import Store


@pytest.fixture
def probed(tmp_path):
    """A sweep whose runs have made-up gradient noise, with ties."""
    made = tables(models=("resnet8", "resnet20"), seeds=3, failures=False)
    runs = made["runs"]["run_id"].to_pylist()
    values = np.random.default_rng(1).integers(1, 12, len(runs)) * 10.0
    rows = [
        {"run_id": run_id, "epoch": epoch, "probe": "gradient_noise", "site": "", "samples": 8, "duration_s": 0.1}
        | {"value": float(value) * scale, "low": float(value) * 0.5, "high": float(value) * 1.5}
        for run_id, value in zip(runs, values, strict=True)
        for epoch, scale in ((5, 100.0), (15, 1.0))  # the earlier measurement must not count
    ]
    made["probes"] = pa.Table.from_pylist(rows, schema=SCHEMAS["probes"])
    store = Store.create(tmp_path / "store")
    with store.claim():
        store.commit(made)
    return open_database(store), dict(zip(runs, values, strict=True))


def test_the_rank_correlation_is_scipy_s_with_the_interval_of_bonett_and_wright(probed):
    database, noise = probed
    by_cell = {}
    for row in database.query("gradient_noise").to_dicts():
        assert row["noise"] == noise[row["run_id"]]
        assert row["epoch"] == 15
        by_cell.setdefault((row["targets"], row["bn_treatment"]), []).append(
            (row["noise"], row["average_normalized_pct"])
        )
    answers = database.query("gradient_noise_correlation").to_dicts()
    assert len(answers) == len(by_cell) == 6
    for answer in answers:
        pairs = np.array(by_cell[answer["targets"], answer["bn_treatment"]])
        r = spearmanr(*pairs.T).statistic
        assert answer["networks"] == len(pairs) == 18
        assert answer["arms"] == 6
        assert answer["rank_correlation"] == pytest.approx(r)
        half = 1.959964 * np.sqrt((1 + r**2 / 2) / (6 - 3))
        assert answer["low"] == pytest.approx(np.tanh(np.arctanh(r) - half), rel=1e-5)
        assert answer["high"] == pytest.approx(np.tanh(np.arctanh(r) + half), rel=1e-5)
        signs = {"supported": answer["low"] > 0, "contradicted": answer["high"] < 0}
        assert answer["explanation"] == next((word for word, true in signs.items() if true), "undecided")


@pytest.mark.parametrize(
    ("models", "seeds", "sign", "word"),
    [
        (("resnet8", "resnet20"), 1, 1, "undecided"),
        (("resnet8", "resnet20"), 5, 1, "undecided"),
        (("resnet8", "resnet20", "resnet32"), 5, 1, "supported"),
        (("resnet8", "resnet20", "resnet32"), 5, -1, "contradicted"),
        (("resnet8",), 10, 1, "undecided"),
    ],
)
def test_a_perfect_order_of_few_arms_proves_nothing(tmp_path, models, seeds, sign, word):
    """Four arms come in one order or its reverse twice in 24 times, by chance alone, however many networks each has;
    six twice in 720 times.
    """
    made = tables(models=models, seeds=seeds, partial=False, failures=False)
    store = Store.create(tmp_path / "store")
    store.commit(made)
    with open_database(store) as database:
        kept = database.sql(
            "SELECT run_id, average_normalized FROM curve WHERE targets = 'weights' AND bn_treatment = 'stale'"
        ).to_dicts()
    probe = {"epoch": 15, "probe": "gradient_noise", "site": "", "samples": 8, "duration_s": 0.1}
    rows = [{**probe, "run_id": row["run_id"], "value": 10 + sign * row["average_normalized"]} for row in kept]
    store.commit({"probes": pa.Table.from_pylist(rows, schema=SCHEMAS["probes"])})
    with open_database(store) as database:
        answers = database.query("gradient_noise_correlation").to_dicts()
    (answer,) = (row for row in answers if (row["targets"], row["bn_treatment"]) == ("weights", "stale"))
    arms = 2 * len(models)
    assert (answer["networks"], answer["arms"]) == (arms * seeds, arms)
    assert answer["rank_correlation"] == pytest.approx(sign)
    assert answer["explanation"] == word
    if arms < 4:
        assert answer["low"] is answer["high"] is None
        return
    low, high = sorted((sign * answer["low"], sign * answer["high"]))
    assert (low < 0) == (arms < 6)
    assert low < 1
    assert high == pytest.approx(1)


def test_networks_of_another_learning_rate_are_not_ranked_with_these(probed, tmp_path):
    """By eq. 7 the noise of a step is the squared rate times C: C alone says nothing across rates."""
    made = tables(models=("resnet8", "resnet20"), seeds=4, partial=False, failures=False)
    runs = made["runs"]
    recipes = pa.array([f'{{"learning_rate": {seed % 2}}}' for seed in runs["train_seed"].to_pylist()])
    made["runs"] = runs.set_column(runs.schema.get_field_index("recipe"), runs.schema.field("recipe"), recipes)
    probe = {"epoch": 15, "probe": "gradient_noise", "site": "", "samples": 8, "duration_s": 0.1}
    rows = [{**probe, "run_id": run_id, "value": float(i)} for i, run_id in enumerate(runs["run_id"].to_pylist())]
    made["probes"] = pa.Table.from_pylist(rows, schema=SCHEMAS["probes"])
    store = Store.create(tmp_path / "rates")
    store.commit(made)
    with open_database(store) as database:
        answers = database.query("gradient_noise_correlation").to_dicts()
    assert {row["networks"] for row in answers} == {8}
    assert len({row["training"] for row in answers}) == 2
    for row, said in zip(answers, explanation(answers), strict=True):
        assert f", recipe {row['training']}, noise on" in said
    assert not any("recipe" in said for said in explanation(probed[0].query("gradient_noise_correlation").to_dicts()))


def test_eq_9_is_told_per_site_with_an_interval_over_seeds(tmp_path):
    """Over those that did not diverge."""
    made = tables(models=("resnet8",), seeds=4, partial=False, failures=False)
    whole = [run for run in made["runs"].to_pylist() if run["placement"] == "all"]
    terms = [  # scale, ||G||^2, the two terms as shares, ||dL/dy||^2
        {"scale": 2.0 + i, "gradient": 0.5, "mean_term": 0.01 * i, "correlation_term": 0.02, "gradient_in": 1.0 + i}
        for i in range(3)
    ]
    terms.append(dict.fromkeys(terms[0], float("nan")))
    row = {"epoch": 15, "site": "stem.site", "samples": 1, "duration_s": 0.1, "low": None, "high": None}
    rows = [
        {**row, "run_id": run["run_id"], "probe": f"eq9_{name}", "value": value}
        for run, one in zip(whole, terms, strict=True)
        for name, value in one.items()
    ]
    made["probes"] = pa.Table.from_pylist(rows, schema=SCHEMAS["probes"])
    store = Store.create(tmp_path / "store")
    store.commit(made)
    with open_database(store) as database:
        (answer,) = database.query("equation_9").to_dicts()
    assert (answer["placement"], answer["site"], answer["seeds"]) == ("all", "stem.site", 3)
    assert (answer["scale"], answer["mean_pct"], answer["correlation_pct"]) == pytest.approx((3.0, 1.0, 2.0))
    assert answer["passed"] == pytest.approx(4.0)  # of 2, 4 and 6, whose standard deviation is 2
    assert answer["half_width"] == pytest.approx(4.302653 * 2 / np.sqrt(3))


def test_the_report_asks_whether_gradient_noise_explains_it(probed, tmp_path):
    database, _ = probed
    write_report(database, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Does gradient noise explain it?" in page
    assert "over 18 training runs the rank correlation between gradient noise C" in page


def test_without_probes_there_is_no_such_section(database, tmp_path):
    assert not database.query("gradient_noise").to_dicts()
    write_report(database, tmp_path / "report.html")
    assert "Does gradient noise explain it?" not in (tmp_path / "report.html").read_text()
