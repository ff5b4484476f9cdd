"""Questions to stores that lack something, or hold more than one experiment: published rows, cut and put together."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import synthetic

from bnsweep.analysis import database as databases
from bnsweep.analysis import panels
from bnsweep.analysis.claims import judge
from bnsweep.analysis.database import Database, open_database, open_snapshot, write_snapshot
from bnsweep.analysis.inputs import read_inputs
from bnsweep.analysis.reader import _workers
from bnsweep.analysis.sentences import attribution, headline
from bnsweep.analysis.tables import _brief
from bnsweep.store.schema import SCHEMAS
from bnsweep.store.store import Store
from tests.results.published import ROOT, STORES

DIFFERENCE = "difference from the fewest BN layers"


def cut(source: Store, folder: Path, table: str, keep: pc.Expression) -> Store:
    """The rows of a store, but for some of one table."""
    store = Store.create(folder)
    store.commit({name: source.read(name, filter=keep if name == table else None) for name in SCHEMAS})
    return store


def again(source: Store, keep: pc.Expression, **changed: pa.Scalar) -> dict[str, pa.Table]:
    """Points and trials once more under other ids, with other values in some columns."""
    tables = {}
    for name in ("points", "trials"):
        rows = source.read(name, filter=keep)
        ids = pc.binary_join_element_wise(rows["point_id"], "x", "")
        rows = rows.set_column(rows.schema.get_field_index("point_id"), rows.schema.field("point_id"), ids)
        for column, value in changed.items():
            if (index := rows.schema.get_field_index(column)) >= 0:
                field = rows.schema.field(column)
                rows = rows.set_column(index, field, pa.array([value.as_py()] * rows.num_rows, field.type))
        tables[name] = rows
    return tables


def told(database: Database, query: str, *columns: str, **wanted: object) -> list[list[object]]:
    """Columns of the rows that have the wanted values."""
    rows = database.query(query).to_dicts()
    return [
        [row[name] for name in columns] for row in rows if all(row[name] == value for name, value in wanted.items())
    ]


def differences(database: Database) -> dict[str, float]:
    """ResNet-8's A_avr with BN everywhere less that without, by recipe, from the claim's rows: mean over seeds."""
    found = defaultdict(list)
    for row in database.query("claim_depth").to_dicts():
        if row["part"].startswith("difference"):
            found[row["model"]].append(row["value_pct"])
    return {model: sum(values) / len(values) for model, values in found.items()}


def test_networks_are_compared_with_those_of_their_own_recipe() -> None:
    with open_database(Store.open(ROOT / STORES["cifar10-puzzles"])) as database:
        effects = {
            row["training"]: row["effect_points"]
            for row in database.query("bn_effect").to_dicts()
            if (row["model"], row["targets"], row["bn_treatment"]) == ("resnet8", "weights", "stale")
        }
        claimed = {model.split()[-1]: value for model, value in differences(database).items()}
    assert len(effects) == 3
    assert {training: claimed[training] for training in effects} == pytest.approx(effects)


def test_a_network_without_clean_rows_is_left_out_of_what_is_said(tmp_path: Path) -> None:
    source = Store.open(ROOT / STORES["cifar10-vgg16"])
    store = cut(source, tmp_path / "store", "trials", pc.field("eta").cast("float64") > 0)
    with open_database(source) as whole, open_database(store) as database:
        assert list(attribution(read_inputs(whole).losses))
        assert list(attribution(read_inputs(database).losses)) == []
        assert list(headline(read_inputs(database)))


def test_a_run_that_was_scored_twice_is_one_network(tmp_path: Path) -> None:
    source = Store.open(ROOT / STORES["cifar10-full"])
    store = cut(source, tmp_path / "store", "trials", pc.scalar(True))
    store.commit(again(source, pc.scalar(True), precision=pa.scalar("fp32")))
    with open_database(source) as once, open_database(store) as twice:
        first, both = (base.query("gradient_noise_correlation").to_dicts() for base in (once, twice))
    assert {row["networks"] for row in both} == {row["networks"] for row in first} == {6}
    assert len(both) == 2 * len(first)


@pytest.mark.parametrize(("draws", "times"), [("others", 2), ("the same", 1)])
def test_a_network_that_was_scored_twice_is_no_second_seed(draws: str, times: int, tmp_path: Path) -> None:
    """By another noise seed, say, which no column of a query tells apart: draws are pooled within the network.

    What was drawn before, in batches of another size, say, is no second draw.
    """
    source = Store.open(ROOT / STORES["cifar10-full"])
    store = cut(source, tmp_path / "store", "trials", pc.scalar(True))
    rows = again(source, pc.scalar(True))
    if draws == "others":
        seeds = pc.bit_wise_xor(rows["trials"]["noise_seed"], 1)
        index = rows["trials"].schema.get_field_index("noise_seed")
        rows["trials"] = rows["trials"].set_column(index, rows["trials"].schema.field(index), seeds)
    store.commit(rows)
    columns = ("placement", "targets", "bn_treatment", "eta", "seeds", "level", "n")
    with open_database(source) as once, open_database(store) as twice:
        for query, figure, key in (
            ("accuracy", "accuracy_pct", columns),
            ("normalized", "normalized_pct", columns),
            ("average_normalized", "average_normalized_pct", tuple(name for name in columns if name != "eta")),
        ):
            first, both = (told(base, query, *key, figure, "half_width_pct") for base in (once, twice))
            assert [row[: len(key) - 1] for row in both] == [row[: len(key) - 1] for row in first]
            assert [row[-3] for row in both] == [times * row[-3] for row in first]
            for was, now in zip(first, both, strict=True):
                assert now[-2:] == pytest.approx(was[-2:])


def test_placements_and_seeds_are_compared_over_the_same_eta(tmp_path: Path) -> None:
    source = Store.open(ROOT / STORES["cifar10-full"])
    largest = (pc.field("eta").cast("float64") > 0.35) & (pc.field("placement") == "all")
    one = source.read("runs", filter=(pc.field("placement") == "all") & (pc.field("train_seed") == 1))["run_id"][0]
    with open_database(source) as database:
        before = told(database, "bn_effect", "effect_points", "low_points", "high_points")
    for name, keep in (("placement", largest), ("seed", largest & (pc.field("run_id") == one))):
        store = cut(source, tmp_path / name, "trials", pc.scalar(True))
        store.commit(again(source, keep, eta=pa.scalar(Decimal("0.8"))))
        with open_database(store) as database:
            assert len(told(database, "accuracy", "eta", eta=0.8)) == 6
            assert told(database, "bn_effect", "effect_points", "low_points", "high_points") == [
                pytest.approx(row) for row in before
            ]
            assert {row[0] for row in told(database, "average_normalized", "etas")} == {5}


def test_the_paper_s_average_stands_beside_one_over_its_own_eta(tmp_path: Path) -> None:
    source = Store.open(ROOT / STORES["cifar10-full"])
    small = pc.field("eta").cast("float64") < 0.15
    store = Store.create(tmp_path / "store")
    store.commit({name: source.read(name, filter=small if name in ("points", "trials") else None) for name in SCHEMAS})
    with open_database(source) as whole, open_database(store) as database:
        quantities = [{row[0] for row in told(base, "paper_comparison", "quantity")} for base in (whole, database)]
        assert max(row[0] for row in told(database, "paper_comparison", "high_pct", quantity="accuracy")) <= 100
    assert quantities == [{"accuracy", "average_normalized"}, {"accuracy"}]


def test_depth_is_compared_within_a_recipe() -> None:
    with open_database(Store.open(ROOT / STORES["cifar10-puzzles"])) as database:
        for model, previous in told(database, "depth_trend", "model", "previous_model"):
            assert (model, previous) != ("resnet8", "resnet8")
    with open_database(Store.open(ROOT / STORES["cifar10-depth"])) as database:
        whole = told(database, "depth_trend", "placement", "previous_model", "change_pct", model="resnet20")
        only = database.query("depth_trend", model="resnet20").to_dicts()
    assert [[row[name] for name in ("placement", "previous_model", "change_pct")] for row in only] == whole
    assert {row[1] for row in whole if row[0] in ("all", "none")} == {"resnet8"}


def test_a_seed_without_the_fewest_layers_is_compared_with_nothing_else(tmp_path: Path) -> None:
    source = Store.open(ROOT / STORES["cifar10-depth"])
    lost = (pc.field("placement") == "none") & (pc.field("train_seed") == 2) & (pc.field("model") == "resnet8")
    store = cut(source, tmp_path / "store", "trials", ~lost)
    cell = {"model": "resnet8", "targets": "weights", "bn_treatment": "stale"}
    with open_database(store) as database:
        effects = told(database, "bn_effect", "seeds", "effect_points", "low_points", "high_points", **cell)
        layers = ("layers_points", "layers_low_points", "layers_high_points")
        deep = told(database, "depth_or_layers", *layers, placement="all", **cell)
        claim = [
            row[0]
            for row in told(database, "claim_depth", "value_pct", "x_label", "part")
            if row[1:] == ["resnet8", DIFFERENCE]
        ]
    assert effects[0][0] == len(claim) == 2
    assert deep[0] == pytest.approx(effects[0][1:])
    assert sum(claim) / 2 == pytest.approx(effects[0][1])


def test_one_more_placement_of_one_seed_leaves_the_others_their_say(tmp_path: Path) -> None:
    source = Store.open(ROOT / STORES["cifar10-depth"])
    tried_once = (pc.field("placement") == "every-2") & (pc.field("train_seed") > 0)
    store = cut(source, tmp_path / "store", "trials", ~tried_once)
    with open_database(store) as database:
        verdict = next(each for each in judge(database) if each.name == "layers")
    (shallow,) = (row for row in verdict.evidence if row.model.startswith("resnet8"))
    assert (shallow.seeds, shallow.steps) == (3, "0 BN layers > 9 BN layers")
    assert shallow.verdict == "supported"


def test_placements_beside_the_same_networks_do_not_decide_by_their_number(tmp_path: Path) -> None:
    """One seed, twelve placements on the claimed side: one lucky network without BN would do that too."""
    masks = ("0000000", "1111111", *(f"{number:07b}" for number in range(1, 13)))
    store = Store.create(tmp_path / "store")
    store.commit(synthetic.search_tables({"resnet8": masks}))
    with open_database(store) as database:
        verdict = next(each for each in judge(database) if each.name == "between")
    assert len(verdict.evidence) == 24
    assert verdict.verdict == "undecided"
    assert "they share a network" in verdict.reason


def test_a_family_differs_in_depth_alone() -> None:
    names = ("resnet20", "resnet56", "torchvision:mobilenet_v3_large", "import:lab2.nets:cnn", "torchvision:vgg16_bn")
    with open_database(Store.open(ROOT / STORES["cifar10-vgg16"])) as database:
        rows = database.sql("SELECT " + ", ".join(f"family('{name}')" for name in names)).to_dicts()
    resnet, deeper, mobile, own, vgg = rows[0].values()
    assert resnet == deeper == "resnet"
    assert (mobile, own, vgg) == ("torchvision:mobilenet_v3_large", "import:lab2.nets:cnn", "torchvision:vgg_bn")


def test_a_snapshot_counts_rows_of_large_tables_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Store.open(ROOT / STORES["cifar10-vgg16"])
    store = cut(source, tmp_path / "store", "trials", pc.scalar(True))
    store.commit({"trials": source.read("trials").slice(0, 1000)})
    assert store.rows("trials") == source.rows("trials") + 1000
    monkeypatch.setattr(databases, "IN_MEMORY_ROWS", 100)
    write_snapshot(store, tmp_path / "snapshot")
    with open_snapshot(tmp_path / "snapshot") as database:
        assert database.sql("SELECT count(*) AS n FROM trials").to_dicts() == [{"n": source.rows("trials")}]


def test_a_worker_is_not_busier_than_the_clock() -> None:
    spans = [(0.0, 10.0), (5.0, 8.0), (20.0, 25.0), (9.0, 12.0)]  # rounds of points take turns
    rows = [{"worker": "w", "kind": "trials", "trials": 4, "start_s": start, "end_s": end} for start, end in spans]
    (worker,) = _workers(rows)
    assert (worker["blocks"], worker["trials"], worker["busy_s"]) == (4, 16, 17.0)


def test_a_part_that_is_contradicted_is_named_in_short() -> None:
    with open_database(Store.open(ROOT / STORES["cifar10-sgd"])) as database:
        (verdict,) = (each for each in judge(database) if each.name == "treatments")
    assert _brief(verdict.reason) == "supported: BN stale, BN folded; contradicted: BN recalibrated"


def test_a_stricter_sweep_of_the_same_points_leaves_another_finished(tmp_path: Path) -> None:
    source = Store.open(ROOT / STORES["cifar10-full"])
    store = cut(source, tmp_path / "store", "trials", pc.scalar(True))
    plan, sweeps = source.read("points"), source.read("sweeps")

    def replaced(rows: pa.Table, column: str, value: object) -> pa.Table:
        field = rows.schema.field(column)
        return rows.set_column(rows.schema.names.index(column), field, pa.array([value] * rows.num_rows, field.type))

    strict = {"points": replaced(plan, "max_trials", 1000), "sweeps": sweeps}
    strict["points"] = replaced(strict["points"], "half_width", 0.0001)
    store.commit({name: replaced(rows, "sweep", "strict") for name, rows in strict.items()})
    failed = pa.Table.from_pylist(
        [
            {
                "sweep": "strict",
                "run_id": plan["run_id"][0].as_py(),
                "point_id": plan["point_id"][0].as_py(),
                "error": "x",
            }
        ],
        schema=SCHEMAS["failures"],
    )
    store.commit({"failures": failed})
    with (
        open_database(source) as alone,
        open_database(store) as both,
        open_database(store, sweep="cifar10-full") as one,
    ):
        (before,) = told(alone, "sweeps", "planned", "done")
        assert told(both, "sweeps", "planned", "done", sweep="cifar10-full") == [before]
        assert told(both, "sweeps", "done", sweep="strict")[0][0] < before[1]
        done = [sum(row[0] for row in told(base, "coverage", "done", sweep="cifar10-full")) for base in (alone, both)]
        assert done == [before[1]] * 2
        assert told(one, "failures", "sweep", "error") == [["strict", "x"]]


def test_bn_estimated_from_more_images_is_a_treatment_of_its_own(tmp_path: Path) -> None:
    source = Store.open(ROOT / STORES["cifar10-sgd"])
    store = cut(source, tmp_path / "store", "points", pc.scalar(True))
    store.commit(again(source, pc.field("bn_treatment") == "recalibrated", recalibration_images=pa.scalar(1000)))
    with open_database(store) as database:
        parts = told(database, "claim_treatments", "part")
    counts = {part: parts.count([part]) for [part] in parts}
    assert set(counts) == {"BN stale", "BN folded", "BN recalibrated on 128 images", "BN recalibrated on 1000 images"}
    assert len(set(counts.values())) == 1


def test_two_kinds_of_noise_on_one_network_are_not_joined_in_its_charts(tmp_path: Path) -> None:
    source = Store.open(ROOT / STORES["cifar10-sgd"])
    store = cut(source, tmp_path / "store", "points", pc.scalar(True))
    weights = (pc.field("targets") == "weights") & (pc.field("bn_treatment") == "stale")
    store.commit(again(source, weights, sigma_reference=pa.scalar("tensor_max")))
    run_id = source.read("runs").column("run_id")[0].as_py()
    with open_database(store) as database:
        points = database.query("run_accuracy", run_id=run_id).to_dicts()
        draws = database.query("draws", run_id=run_id).to_dicts()
    (curve,), (spread,) = panels.accuracy_over_eta(points), panels.histogram(draws)
    for figure in (curve, spread):
        wanted = {f"noise on weights, σ reference {name}" for name in ("tensor_std", "tensor_max")}  # noqa: RUF001
        assert wanted <= {row["panel"] for row in figure.rows}
    assert max(Counter((row["panel"], row["eta_pct"]) for row in curve.rows).values()) == 1


def test_the_headline_says_that_outputs_were_nan() -> None:
    with open_database(Store.open(ROOT / STORES["cifar10-full"])) as database:
        rows = database.query("accuracy").to_dicts()
        weights, everything = headline(read_inputs(database))
    eta = float(re.search(r"η = (\S+) %", everything)[1]) / 100
    cell = {"eta": eta, "targets": "all", "bn_treatment": "stale", "placement": "all"}
    (share,) = (row["nonfinite_pct"] for row in rows if cell.items() <= row.items())
    assert everything.endswith(f" Of the scored images {share:.1f} % with BN everywhere had a non-finite output.")
    assert share > 1
    assert "non-finite" not in weights
