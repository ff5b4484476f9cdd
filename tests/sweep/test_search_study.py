"""Studies without a cluster: what they ask for, given how runs end. The ends follow from rules with known answers."""

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from bnsweep.errors import InputError
from bnsweep.experiment.architecture import Architecture, Site
from bnsweep.experiment.reading import parse_spec
from bnsweep.experiment.search import Subject, subjects
from bnsweep.placements.front import nondominated
from bnsweep.placements.surrogate import Surrogate
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.search.knowledge import volumes
from bnsweep.sweep.search.minimal import MinimalStudy, places
from bnsweep.sweep.search.objectives import Verdict
from bnsweep.sweep.search.samplers import SAMPLERS, mask_of, space
from bnsweep.sweep.search.study import FrontStudy
from tests.bench.volume import hypervolume

SEARCH = """\
name: s
data: {source: digits, size: 8}
models: resnet8
train_seeds: 2
training: {epochs: 3, chance_epochs: 2}
eta: [0, 0.1]
search: {SEARCH}
"""


@pytest.fixture(scope="module")
def catalog():
    return LocalCatalog(Path())


def subject_for(catalog, search):
    (subject,) = subjects(parse_spec(SEARCH.replace("SEARCH", search)), catalog)
    return subject


def small(subject, sites):
    """The same subject with a network of fewer sites, so that all of its placements can be gone through."""
    layout = tuple(Site(f"s{number}", 8, 1 + number // 2, shortcut=False) for number in range(sites))
    return Subject(
        subject.spec,
        subject.data,
        subject.model,
        Architecture("small", layout, 1, 1, "small"),
        subject.fingerprint,
        subject.counts,
    )


def rule(run):
    """Accuracy rises with BN near the input, A_avr falls with every layer."""
    bits = np.array([int(digit) for digit in run.bn_mask])
    accuracy = 0.9 + float(bits @ np.linspace(0.02, 0.0, len(bits))) + 0.001 * run.train_seed
    return Verdict("finished", (accuracy, 0.95 - 0.02 * run.bn_kept, float(run.bn_kept)), accuracy)


def follow(study, end=rule, *, shuffled=None):
    """Run a study to its end; its proposals."""
    while not study.over:
        batch = study.batch()
        if not batch:
            break
        order = list(batch) if shuffled is None else list(shuffled.permutation(np.array(batch, dtype=object)))
        study.tell({proposal.run.run_id: end(proposal.run) for proposal in order})
    return [(p.run.bn_mask, p.run.train_seed, p.origin) for p in study.asked]


def test_fronts_and_volumes_are_those_of_the_definition():
    random = np.random.default_rng(0)
    values = random.integers(0, 6, (40, 3)).astype(float)
    plain = [not any((other >= row).all() and (other > row).any() for other in values) for row in values]
    assert nondominated(values).tolist() == plain
    # On a grid the dominated volume is a number of unit cells.
    cells = sum(any((row > np.array(cell)).all() for row in values) for cell in product(range(6), repeat=3))
    assert hypervolume(values, np.zeros(3)) == pytest.approx(cells)
    assert hypervolume(values[:, :1], np.zeros(1)) == values[:, 0].max()


def test_volumes_of_many_sets_are_those_of_one():
    random = np.random.default_rng(3)
    values, kept = random.random((4, 30, 2)), random.integers(0, 5, 30)
    found = volumes(values, kept / 5)
    for rows, volume in zip(values, found, strict=True):
        plain = np.column_stack([rows, 5 - kept])
        assert volume == pytest.approx(hypervolume(plain, np.zeros(3)) / 5)
    assert volumes(values[..., :1], None) == pytest.approx(values[..., 0].max(axis=1))
    more = random.random((3, 8, 3))
    assert volumes(more, None) == pytest.approx([hypervolume(each, np.zeros(3)) for each in more], rel=0.05)


def test_a_surrogate_tells_sites_from_seeds_and_luck():
    """Single runs with any of three seeds, one of which is far better for all: no placement is the better for it."""
    random = np.random.default_rng(1)
    effects = np.array([2.0, -1.0, 0.0, 0.5, 0.0, 0.0, 1.0, 0.0])
    masks = random.integers(0, 2, (120, 8)).astype(float)
    seeds = random.integers(0, 3, 120)
    every = np.array(list(product((0.0, 1.0), repeat=8)))
    values = masks @ effects + np.array([0.0, 3.0, 0.0])[seeds] + random.normal(0, 0.5, 120)
    model = Surrogate(3).fit(masks, seeds, values)
    belief = model.believe(every, np.zeros(256, dtype=np.int64))
    truth = every @ effects + 1.0
    assert np.corrcoef(belief.mean, truth)[0, 1] > 0.97
    assert model.luck_sd == pytest.approx(0.5, rel=0.35)
    within = np.abs(belief.mean - truth) < 2 * np.sqrt(np.diag(belief.covariance))
    assert within.mean() > 0.85


def test_of_a_placement_with_every_seed_nothing_is_left_to_learn():
    random = np.random.default_rng(2)
    masks = np.repeat(random.integers(0, 2, (10, 6)).astype(float), 2, axis=0)
    seeds = np.tile(np.array([0, 1]), 10)
    values = random.normal(0, 1, 20)
    model = Surrogate(2).fit(masks, seeds, values)
    belief = model.believe(masks[::2], np.ones(10, dtype=np.int64))
    same = [values[(masks == mask).all(axis=1)].reshape(-1, 2).mean() for mask in masks[::2]]
    assert belief.mean == pytest.approx(same, abs=1e-3)
    assert np.abs(belief.covariance).max() < 1e-3
    # A run that waits makes it surer and moves no mean; its step is what it can move.
    half = model.fit(masks[::2], seeds[::2], values[::2])
    before = half.believe(masks[::2], np.ones(10, dtype=np.int64))
    after = half.believe(masks[::2], np.ones(10, dtype=np.int64), (masks[:1], np.array([1])))
    assert after.mean == pytest.approx(before.mean)
    lost = before.covariance - after.covariance
    assert lost == pytest.approx(np.outer(before.step[:, 0], before.step[:, 0]), abs=1e-6)


def test_repeats_go_where_they_decide(catalog):
    """Of the known placements two are far better than the rest, and close to each other: they get all their seeds."""
    random = np.random.default_rng(5)

    def end(run):
        good = {"100000000": 0.95, "000000001": 0.945}.get(run.bn_mask, 0.8)
        accuracy = good + float(random.normal(0, 0.01))
        return Verdict("finished", (accuracy, accuracy, float(run.bn_kept)), accuracy)

    asked = follow(FrontStudy(subject_for(catalog, "trainings: 32, batch: 4")), end)
    times = Counter(mask for mask, _, _ in asked)
    assert times["100000000"] == times["000000001"] == 2
    assert sum(times.values()) / len(times) < 1.6


@pytest.mark.parametrize("sampler", [each for each in SAMPLERS if each != "exhaustive"])
def test_known_placements_first_and_nothing_is_asked_for_twice(catalog, sampler):
    subject = subject_for(catalog, f"sampler: {sampler}, trainings: 16, batch: 4")
    asked = follow(FrontStudy(subject))
    assert [mask for mask, _, _ in asked[: len(subject.known)]] == list(subject.known)
    assert len(asked) == len({(mask, seed) for mask, seed, _ in asked}) == 16
    assert all(seed == 0 or origin == "repeat" for _, seed, origin in asked)


@pytest.mark.parametrize("sampler", ["surrogate", "tpe", "nsga2", "random"])
def test_a_study_follows_from_its_file_and_the_results_not_from_their_order(catalog, sampler):
    subject = subject_for(catalog, f"sampler: {sampler}, trainings: 28, batch: 5")
    asked = follow(FrontStudy(subject))
    assert asked == follow(FrontStudy(subject), shuffled=np.random.default_rng(3))
    assert asked != follow(FrontStudy(subject_for(catalog, f"sampler: {sampler}, trainings: 28, batch: 5, seed: 1")))


@pytest.mark.ray
@pytest.mark.parametrize(
    ("sampler", "objectives"),
    [(each, "[accuracy, average_normalized, kept]") for each in ("surrogate", "tpe", "nsga2")] + [("tpe", "accuracy")],
)
def test_a_study_asks_what_it_asked_through_ray_tune(catalog, monkeypatch, sampler, objectives):
    """Searches that were begun when studies went through Tune's OptunaSearch go on where they were."""
    from ray.tune.search.optuna import OptunaSearch

    subject = subject_for(catalog, f"sampler: {sampler}, objectives: {objectives}, trainings: 19, batch: 4")
    search, tickets = subject.spec.search, {}

    def end(run):
        verdict = rule(run)
        last = int(run.run_id[-1], 16)  # some ends of each kind
        if status := {0: "diverged", 1: "pruned", 2: "failed", 3: "diverged"}.get(last):
            return Verdict(status)
        return replace(verdict, values=verdict.values[: len(search.objectives)])

    asked = follow(FrontStudy(subject), end)

    class Through(FrontStudy):
        def __init__(self, subject):
            super().__init__(subject)
            several = len(search.objectives) > 1
            self.tune = OptunaSearch(
                space(subject.sites),
                metric=list(search.objectives) if several else search.objectives[0],
                mode=search.directions if several else search.directions[0],
                sampler=self._optuna.sampler,
            )
            for name, value in self._optuna.user_attrs.items():
                self.tune._ot_study.set_user_attr(name, value)
            self._optuna = self.tune._ot_study

        def _suggest(self):
            ticket = str(len(tickets))
            self.tune.suggest(ticket)
            tickets[self.tune._ot_trials[ticket]._trial_id] = ticket
            return self.tune._ot_trials[ticket]

        def _complete(self, trial, values):
            told = dict(zip(search.objectives, values, strict=True)) if values is not None else None
            self.tune.on_trial_complete(tickets[trial._trial_id], result=told)

    assert follow(Through(subject), end) == asked


@pytest.mark.parametrize("sampler", ["tpe", "exhaustive", "surrogate"])
def test_a_small_network_is_searched_to_the_end_with_every_seed(catalog, sampler):
    subject = small(subject_for(catalog, f"sampler: {sampler}, trainings: 1000, batch: 8"), 3)
    asked = follow(FrontStudy(subject))
    masks = ["".join(digits) for digits in product("01", repeat=3)]
    assert sorted((mask, seed) for mask, seed, _ in asked) == sorted(product(masks, (0, 1)))


def test_networks_that_fail_are_on_no_front_and_pruned_ones_count_for_nothing(catalog):
    def end(run):
        if run.bn_mask.startswith("0"):
            return Verdict("diverged")
        return Verdict("pruned") if run.bn_mask.endswith("1") else rule(run)

    study = FrontStudy(subject_for(catalog, "trainings: 30, batch: 5"))
    asked = follow(study, end)
    told = study._optuna
    assert {trial.state.name for trial in told.get_trials()} == {"COMPLETE", "PRUNED"}
    assert not any(trial.params["site1"] == "0" for trial in told.best_trials)
    found = [mask for mask, _, origin in asked if origin == "surrogate"]
    assert sum(mask.startswith("1") for mask in found) > len(found) / 2


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_only_what_diverged_is_as_bad_as_can_be(catalog, sampler):
    """Samplers that keep to what they know propose a placement again: while it is trained, and after it was stopped."""
    subject = subject_for(catalog, f"sampler: {sampler}, trainings: 160, batch: 16")
    subject = replace(subject, spec=subject.spec.model_copy(update={"train_seeds": (0,)}))

    def end(run):
        if run.bn_mask.startswith("00"):
            return Verdict("diverged")
        return Verdict("pruned") if run.bn_mask.endswith("11") else rule(run)

    study = FrontStudy(subject)
    follow(study, end)
    told = study._optuna.get_trials()
    assert len(told) > len(study.asked)  # some were proposed again
    for trial in told:
        verdict = end(subject.run(mask_of(trial.params), 0))
        worst = (0.0, 0.0, 10.0)  # of accuracy, A_avr and the BN layers of nine sites
        known = {"diverged": worst, "pruned": None}.get(verdict.status, verdict.values)
        assert trial.values in (None, list(known or ())), trial.params


def test_one_objective_is_enough(catalog):
    def end(run):
        verdict = rule(run)
        return replace(verdict, values=verdict.values[:1])

    assert len(follow(FrontStudy(subject_for(catalog, "objectives: accuracy, trainings: 20")), end)) == 20


@pytest.mark.parametrize("fewest", [0, 1, 2, 3, 5, 8, 9])
def test_minimal_finds_the_fewest_layers_with_few_trainings(catalog, fewest):
    """A network converges if it has `fewest` layers, whichever they are."""

    def end(run):
        return Verdict("finished", (0.9, 0.9, 0.0), 0.9) if run.bn_kept >= fewest else Verdict("diverged")

    study = MinimalStudy(subject_for(catalog, "minimal: {places: 3}, batch: 3"))
    asked = follow(study, end)
    assert study.answer == fewest
    assert all(origin == "minimal" for _, _, origin in asked)
    assert any(f"converge are {fewest} of 9" in line for line in study.lines())
    failed = {mask.count("1") for mask, _, _ in asked if mask.count("1") < fewest}
    assert not failed or max(failed) == fewest - 1  # the count below was tried


def test_minimal_needs_far_fewer_trainings_than_one_per_count(catalog):
    subject = small(subject_for(catalog, "minimal: {places: 2}, batch: 2"), 60)
    subject = replace(subject, spec=subject.spec.model_copy(update={"train_seeds": (0,)}))

    def end(run):
        return Verdict("finished", (0.9, 0.9, 0.0), 0.9) if run.bn_kept >= 5 else Verdict("diverged")

    study = MinimalStudy(subject)
    asked = follow(study, end)
    assert study.answer == 5
    assert len(asked) < 61 / 3


def test_a_run_that_was_lost_says_nothing_of_its_network(catalog):
    """A worker that ran out of memory is no training that diverges: neither search takes it for one."""

    def good(run):
        return Verdict("finished", (0.9, 0.9, 0.0), 0.9)

    study = MinimalStudy(subject_for(catalog, "minimal: {places: 3}, batch: 3"))
    follow(study, lambda run: good(run) if run.bn_kept else Verdict("failed"))
    assert (study.answer, study.over) == (None, True)
    (line,) = study.lines()
    assert "whether 0 BN layers converge is not known: 1 of the trainings that were to tell failed" in line
    assert "--retry-failed" in line
    again = MinimalStudy(study.subject)
    follow(again, good)
    assert again.answer == 0

    beyond = MinimalStudy(study.subject)  # the answer stands where only the count above it is not known
    follow(beyond, lambda run: good(run) if run.bn_kept in (0, 9) else Verdict("failed"))
    assert beyond.answer == 0
    assert "whether 1 BN layers converge is not known" in "\n".join(beyond.lines())

    def front(run):
        return Verdict("failed") if run.bn_mask.endswith("1") else rule(run)

    study = FrontStudy(subject_for(catalog, "trainings: 30, batch: 5"))
    follow(study, front)
    told = study._optuna.get_trials()
    assert {t.state.name for t in told if t.params["site9"] == "1"} == {"PRUNED"}


def test_minimal_says_where_more_layers_did_not_help(catalog):
    """Only the first layer makes it converge; two that are any do not always."""

    def end(run):
        good = run.bn_mask in ("111111111", "100000000")
        return Verdict("finished", (0.9, 0.9, 0.0), 0.9) if good else Verdict("diverged")

    study = MinimalStudy(subject_for(catalog, "minimal: {places: 2}, batch: 2"))
    follow(study, end)
    assert study.answer == 1
    assert any("more layers did not converge at 2: the counts are not in order" in line for line in study.lines())


def test_minimal_without_any_way_to_converge_says_so(catalog):
    study = MinimalStudy(subject_for(catalog, ""))
    follow(study, lambda run: Verdict("diverged"))
    assert study.answer is None
    assert study.lines() == ["digits resnet8: not even BN at every site converges; train longer, or at a lower rate"]


def test_minimal_must_be_able_to_tell(catalog):
    text = SEARCH.replace("chance_epochs: 2", "chance_epochs: null").replace("SEARCH", "")
    (blind,) = subjects(parse_spec(text), catalog)
    with pytest.raises(InputError, match=r"`--minimal` must be able to tell .*accuracy_share` be above 0"):
        MinimalStudy(blind)
    (relative,) = subjects(parse_spec(text.replace("search: {}", "search: {minimal: {accuracy_share: 0.5}}")), catalog)

    def end(run):  # below half of what BN everywhere reaches
        return Verdict("finished", (0.4, 0.9, 0.0), 0.4 if run.bn_kept < 2 else 0.9)

    study = MinimalStudy(relative)
    follow(study, end)
    assert study.answer == 2


def test_places_differ_and_have_the_count(catalog):
    subject = subject_for(catalog, "minimal: {places: 6}")
    for count in range(10):
        found = [mask for mask, _ in places(subject, count)]
        assert len(set(found)) == len(found) == min(6, len(found))
        assert {mask.count("1") for mask in found} == {count}
    assert next(places(subject, 3)) == ("111000000", "the first")


def test_the_table_that_searches_are_replayed_on_is_whole():
    from tests.bench.bench_search import needed, replay, table

    known = table()
    assert known.runs.shape == (256, 3, 2)
    truth = known.truth
    front = [mask for mask, on in zip(known.masks, nondominated(truth), strict=True) if on]
    assert known.worth(known.masks) == pytest.approx(1)
    assert known.worth(front) == pytest.approx(1)
    assert known.worth(["00000000"]) < 0.9
    for curve in replay("random", 0, 48).values():
        assert [trainings for trainings, _ in curve] == [8, 16, 24, 32, 40, 48]
        assert all(0 < worth < 1 for _, worth in curve)
    assert needed([(8, 0.5), (16, 0.95), (24, 0.8), (32, 0.9), (40, 1.0)], 0.9) == 32
