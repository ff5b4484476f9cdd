import time
from dataclasses import dataclass, field, replace

import pytest

from bnsweep.errors import ModelError, SpecError
from bnsweep.experiment.architecture import Architecture, Site
from bnsweep.experiment.plan import make_plan
from bnsweep.experiment.reading import parse_spec


@dataclass
class Shelf:
    """A real catalog of hand-made architectures: a plan needs no torch."""

    sites: dict[str, int] = field(default_factory=lambda: {"small": 3, "large": 7})

    def architecture(self, model, data):
        if model not in self.sites:
            raise ModelError(f"unknown model {model!r}. Valid: {', '.join(self.sites)}")
        sites = tuple(Site(f"site{i}", 8, 1, False) for i in range(self.sites[model]))
        return Architecture(model, sites, 1000, 10_000, f"signature of {model}")

    def sketch(self, model):
        return self.architecture(model, None)

    def shape(self, data):
        return 1, 8, 10

    def fingerprint(self, data):
        return f"fingerprint of {data.source} {data.size}"

    def image_counts(self, data):
        return data.train_images or 1437, data.test_images or 360


BASE_NAME = "name: t\ndata: digits\n"


def plan_of(text):
    return make_plan(parse_spec(BASE_NAME + text), Shelf())


BASE = "models: [small, large]\nplacements: [all, none]\ntrain_seeds: [0, 1]\neta: [0.1, 0.2]\ntrials: 5\n"


def test_a_plan_is_the_product_of_its_axes():
    plan = plan_of(BASE + "noise: {targets: [weights, all]}\n")
    assert len(plan.runs) == 2 * 2 * 2
    assert plan.points_per_run == 2 * 3  # the baseline is always measured
    assert plan.rows() == (8 * 2 * (1 + 5 + 5),) * 2
    assert len({run.run_id for run in plan.runs}) == 8
    assert len({point.point_id for run in plan.runs for point in plan.points(run)}) == 8 * 6


def test_adding_values_renumbers_nothing():
    before, after = (
        plan_of(BASE),
        plan_of(BASE.replace("[0, 1]", "[7, 0, 1]").replace("[0.1, 0.2]", "[0.05, 0.1, 0.2]")),
    )
    old = {run.run_id: {p.point_id for p in before.points(run)} for run in before.runs}
    new = {run.run_id: {p.point_id for p in after.points(run)} for run in after.runs}
    assert set(old) < set(new)
    assert all(old[run_id] < new[run_id] for run_id in old)


@pytest.mark.parametrize(
    "change",
    ["training: {epochs: 31}", "training: {learning_rate: 0.002}", "resources: {train: {cpu: 2}}"],
)
def test_what_influences_weights_changes_the_run(change):
    assert not {r.run_id for r in plan_of(BASE).runs} & {r.run_id for r in plan_of(BASE + change + "\n").runs}


@pytest.mark.parametrize(
    "change",
    ["noise_seed: 1", "evaluation: {precision: bf16}", "images: 50", "noise: {targets: all}"],
)
def test_what_influences_only_rows_changes_the_points_and_not_the_runs(change):
    before, after = plan_of(BASE), plan_of(BASE + change + "\n")
    assert [r.run_id for r in before.runs] == [r.run_id for r in after.runs]
    ids = [{p.point_id for r in plan.runs for p in plan.points(r)} for plan in (before, after)]
    assert not ids[0] & ids[1]


def test_more_trials_extend_the_same_points():
    before, after = plan_of(BASE), plan_of(BASE.replace("trials: 5", "trials: {half_width: 0.01}"))
    assert [p.point_id for r in before.runs for p in before.points(r)] == [
        p.point_id for r in after.runs for p in after.points(r)
    ]
    assert after.rows() == (4 * 2 * (1 + 8 + 8), 4 * 2 * (1 + 1000 + 1000))


def test_placements_that_keep_the_same_sites_are_one_network():
    plan = plan_of("models: small\nplacements: [all, {first: 3}, '111', none]\n")
    assert [(run.placement, run.bn_mask) for run in plan.runs] == [("all", "111"), ("none", "000")]
    plan = plan_of("models: small\nplacements: ['000', {last: 1}, '001', {first: 3}]\n")
    assert [run.placement for run in plan.runs] == ["none", "last-1", "all"]


def test_draws_are_common_to_placements_and_apart_for_models_seeds_and_trials():
    plan = plan_of(BASE)
    seeds = {}
    for run in plan.runs:
        seeds.setdefault((run.model, run.train_seed), set()).add(tuple(plan.noise_seed(run, t) for t in range(5)))
    assert all(len(found) == 1 for found in seeds.values())
    assert len({seed for found in seeds.values() for seed in next(iter(found))}) == 4 * 5
    assert all(0 <= seed < 2**63 for found in seeds.values() for seed in next(iter(found)))


def test_everything_that_does_not_fit_is_said_at_once():
    with pytest.raises(SpecError) as caught:
        plan_of("models: [small, tiny]\nplacements: [all, {first: 5}, {stages: [4]}]\n")
    assert [problem.where for problem in caught.value.problems] == ["placements.1", "placements.2", "models.1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("images: 361", "`images <= test images` must hold, but got images=361 and 360"),
        ("noise: {bn_treatment: recalibrated, recalibration_images: 1438}", "but got 1438 and 1437"),
    ],
)
def test_more_images_than_there_are_are_refused(change, message):
    with pytest.raises(SpecError, match=message):
        plan_of(BASE + change + "\n")


def test_a_model_may_bring_placements_and_a_recipe_of_its_own():
    plan = plan_of(
        "models: [small, {name: large, placements: [{first: 1}], training: {epochs: 3}}]\nplacements: [all]\n"
    )
    assert [(r.model, r.bn_kept, r.training.epochs) for r in plan.runs] == [("small", 3, 30), ("large", 1, 3)]


def test_a_model_s_recipe_is_the_sweep_s_but_for_what_it_says():
    sweep = "training: {batch_size: 50, optimizer: sgd, schedule: {kind: step}}\n"
    text = sweep + "models: [{name: large, training: {epochs: 3}}]\nplacements: [all]\n"
    (run,) = plan_of(text).runs
    recipe = run.training
    assert (recipe.epochs, recipe.batch_size, recipe.optimizer, recipe.schedule.kind) == (3, 50, "sgd", "step")
    # What a store keeps of the file says all of it, and is the same again.
    again = make_plan(
        type(parsed := parse_spec(BASE_NAME + text)).model_validate(parsed.model_dump(mode="json")), Shelf()
    )
    assert [each.run_id for each in again.runs] == [run.run_id]


def test_two_recipes_of_one_network_are_told_apart_by_what_comes_of_them():
    sweep = "training: {epochs: 60, learning_rate: 0.05}\nplacements: [all]\nmodels: [{name: small, training: {A}}, "
    sweep += "{name: small, training: {B}}]\n"
    two = plan_of(sweep.replace("A", "epochs: 30").replace("B", "learning_rate: 0.001")).runs
    assert [(run.training.epochs, run.training.learning_rate) for run in two] == [(30, 0.05), (60, 0.001)]
    with pytest.raises(SpecError, match="`models` names small twice"):
        plan_of(sweep.replace("A", "epochs: 60").replace("B", "learning_rate: 0.05"))


def test_the_default_number_of_images_is_one_cell_whether_it_is_written_or_not():
    written = "noise: {bn_treatment: recalibrated, recalibration_images: 1000}\n"
    plans = plan_of(BASE + written), plan_of(BASE + written.replace(", recalibration_images: 1000", ""))
    first, second = ({p.point_id for run in plan.runs for p in plan.points(run)} for plan in plans)
    assert first == second
    with pytest.raises(SpecError, match="goes with bn_treatment: recalibrated, but got stale"):
        plan_of(BASE + written.replace("recalibrated,", "stale,"))


def test_other_treatments_stand_once_beside_several_numbers_of_images():
    plan = plan_of(BASE + "noise: {bn_treatment: [stale, recalibrated], recalibration_images: [16, 128]}\n")
    told = [(cell.bn_treatment, cell.recalibration_images) for cell in plan.spec.noise]
    assert told == [("stale", None), ("recalibrated", 16), ("recalibrated", 128)]


def test_all_and_none_keep_their_names():
    plan = plan_of("models: [small, large]\nplacements: [{first: 3}, all, none]\n")
    assert [(run.model, run.placement) for run in plan.runs] == [
        ("small", "all"), ("small", "none"), ("large", "first-3"), ("large", "all"), ("large", "none"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("folder:/x/my digits", "my-digits"),
        ("folder:.", "images"),
        ("parquet:/", "images"),
        ("parquet:/d/cifar10/", "cifar10"),
    ],
)
def test_a_data_set_is_called_what_a_name_may_be(source, label):
    """A store keeps it as the name, and reads it back."""
    spec = parse_spec(f"name: t\ndata: {{source: '{source}'}}\nmodels: small\n")
    assert spec.data[0].dataset == label
    kept = spec.with_source("digits").model_dump(mode="json")
    assert type(spec).model_validate(kept).data[0].dataset == label


def test_one_data_set_under_two_names_is_refused():
    with pytest.raises(SpecError, match="data.1: holds the same images as entry 1 of `data`"):
        make_plan(parse_spec("name: t\ndata: [digits, {source: digits, name: other}]\n" + BASE), Shelf())


def test_what_cannot_be_done_with_a_network_is_said_before_it_is_trained():
    class Odd(Shelf):
        def architecture(self, model, data):
            whole = super().architecture(model, data)
            reason = "follows no convolution (a transposed one does not count) or linear layer"
            return replace(whole, fixed=("site1",), unfoldable=(("site0", reason), ("site2", reason)))

    def planned(text):
        return make_plan(parse_spec("name: t\ndata: digits\nmodels: small\n" + text), Odd())

    with pytest.raises(
        SpecError, match=r"placements.1: placement 'none' does not fit small: the BN layer site1 cannot"
    ):
        planned("placements: [all, none]\n")
    with pytest.raises(SpecError, match=r"noise.1: BN of small cannot be folded: site0, site2 follows no convolution"):
        planned("placements: all\nnoise: {bn_treatment: [stale, folded]}\n")
    assert planned("placements: ['010']\nnoise: {bn_treatment: [stale, folded]}\n").runs


def test_a_large_plan_is_fast_and_small():
    import tracemalloc

    tracemalloc.start()
    plan = plan_of("models: [small, large]\nplacements: [all, none, {first: 1}, {last: 1}]\ntrain_seeds: 2500\n")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(plan.runs) == 20_000
    assert peak < 100e6  # 100,000 runs in 500 MB


def test_a_short_spec_cannot_ask_for_more_than_fits_into_memory():
    begin = time.monotonic()
    with pytest.raises(SpecError, match="at most 200,000 training runs and .* up to 300,000 and 1,800,000; split it"):
        plan_of("models: small\ntrain_seeds: 100000\nplacements: [all, none, {first: 1}]\n")
    assert time.monotonic() - begin < 5
