"""What a person is told while a sweep runs."""

import io
import re
from pathlib import Path

import pytest

from bnsweep.errors import StoreDamagedError
from bnsweep.experiment.plan import make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.store.store import Store
from bnsweep.sweep import work
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.driver import Driver
from bnsweep.sweep.estimate import preview
from bnsweep.sweep.progress import PlainProgress, Silent, Work
from bnsweep.sweep.tasks import Progressed

SECONDS_TO_START = 20
SHAKY = """
import os
from torch import nn

class Shaky(nn.Sequential):
    def forward(self, x):
        if len(x) == 50 and os.path.exists(os.environ["SHAKY"]):  # batches of the training
            raise RuntimeError("not yet")
        return super().forward(x).mean((2, 3))

def make(classes, channels, size):
    return Shaky(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1))
"""


def test_time_left_follows_the_speed_of_work_and_not_the_start_of_the_workers(tmp_path, tiny):
    text = tiny.replace("epochs: 2,", "epochs: 10,").replace("trials: 4", "trials: 1").replace("[0, 0.1, 0.3]", "[0]")
    plan = make_plan(parse_spec(text.replace("[weights, all]", "weights")), LocalCatalog(tmp_path))
    now = [0.0]
    work = Work(_driver(plan, Store.create(tmp_path / "store")), clock=lambda: now[0])
    assert work.seconds_left is None
    first, second = (run.run_id for run in plan.runs)
    now[0] = SECONDS_TO_START
    for epoch in range(1, 6):  # a second each
        now[0] += 1
        work.heard(Progressed(first, epoch))
        work.heard(Progressed(second, epoch))
        assert (work.seconds_left is None) == (epoch == 1)  # both told of their first at about the same time
    # Five epochs of each network are left, and two trials of 100 images against 200 x 3 per epoch. Of the ten epochs
    # that were heard, nine took the four seconds since the first.
    epochs_left = 2 * 5 + 2 * 100 / (3 * 200)
    assert work.seconds_left == pytest.approx(epochs_left * 4 / 9)
    assert work.line() == "runs 0/2  epochs 10/20  trials 0/2  0.0 trials/s  0:05 left"
    # While nothing is heard it falls as a clock does, for as long as one epoch of each network takes at that speed.
    before = work.seconds_left
    now[0] += 2 * 4 / 9
    assert work.seconds_left == pytest.approx(before - 2 * 4 / 9)
    now[0] += 1  # and then it rises: what is overdue has been slow
    assert work.seconds_left == pytest.approx((epochs_left - 2) * (4 + 2 * 4 / 9 + 1) / 11)
    work.heard(Progressed(first, 10))
    work.heard(Progressed(second, 10))  # no epoch is under way: what is left are trials
    before, now[0] = work.seconds_left, now[0] + 1
    assert work.seconds_left > before


def test_lines_for_a_log_end_with_everything_done(tmp_path, run, tiny, monkeypatch):
    monkeypatch.setattr("bnsweep.sweep.progress.LINE_S", 0.0)
    log = io.StringIO()
    run(tiny, tmp_path / "store", listener=PlainProgress(log))
    lines = log.getvalue().splitlines()
    assert all(
        re.fullmatch(r"runs \d/2  epochs \d/4  trials \d+/36  \d+\.\d trials/s  (\d+:\d\d|--:--) left", line)
        for line in lines
    )
    assert lines[-1].startswith("runs 2/2  epochs 4/4  trials 36/36 ")
    assert lines[-1].endswith("0:00 left")


def test_what_a_lost_network_leaves_undone_is_not_waited_for(tmp_path, run, tiny):
    text = tiny.replace("epochs: 2,", "epochs: 2, optimizer: sgd, learning_rate: 100,")
    store, log = tmp_path / "store", io.StringIO()
    lost = run(text, store, listener=PlainProgress(log)).runs_diverged
    assert lost
    trials = (2 - lost) * 18
    assert log.getvalue().splitlines()[-1].startswith(f"runs 2/2  epochs 4/4  trials {trials}/{trials} ")
    plan = make_plan(parse_spec(text), LocalCatalog(tmp_path))
    before = preview(plan, Store.open(store), cpus=2, data_root=tmp_path)
    assert (before.runs_done, before.runs_diverged, before.runs_failed, before.runs_missing) == (2 - lost, lost, 0, 0)
    assert (before.rows_done, before.rows_missing, before.blocks_missing, before.hours) == (trials, 0, 0, 0)
    assert f"2 planned, {2 - lost} done, 0 missing, {lost} diverged\n" in before.to_text()
    assert Work(_driver(plan, Store.open(store, writable=True))).trials_total == trials


def test_a_plan_s_time_comes_from_rows_of_its_own_precisions_and_says_where_bf16_would_save_some(tmp_path, run, tiny):
    store = tmp_path / "store"
    run(tiny, store)
    long = tiny.replace("epochs: 2,", "epochs: 100_000,")
    both = long.replace("{epochs:", "{precision: bf16, epochs:") + "evaluation: {precision: bf16}\n"

    def previewed(text, cpus=2):
        plan = make_plan(parse_spec(text), LocalCatalog(tmp_path))
        return preview(plan, Store.open(store), cpus=cpus, data_root=tmp_path, measure=None)

    assert previewed(long).speeds_from == "measured: 2 runs and 32 trials in the store"  # those with noise
    assert previewed(both).speeds_from.startswith("measured now: ")
    flags = {"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split())
    assert ("`training: {precision: bf16}`" in previewed(long).to_text()) == bool(flags)
    assert previewed(both).hint is None
    assert previewed(tiny).hint is None  # seconds
    # Two runs, neither of which can be split, whatever the number of cores.
    many = previewed(long, cpus=1000)
    assert many.hours == pytest.approx(many.core_hours_training / 2 + many.core_hours_trials / 1000)


@pytest.mark.parametrize(
    ("trials", "images", "said"),
    [
        (
            "{half_width: 0.05}",
            "all",
            "may stop after 8 draws, which miss what happens in one draw of ten 43 times in 100",
        ),
        ("{half_width: 0.05, min: 30}", "all", None),
        ("{half_width: 0.05}", "auto", None),
        ("4", "all", None),
    ],
)
def test_a_plan_says_what_few_draws_cannot_see(trials, images, said, tmp_path, tiny):
    text = tiny.replace("trials: 4", f"trials: {trials}\nimages: {images}")
    shown = preview(make_plan(parse_spec(text), LocalCatalog(tmp_path)), None, cpus=2, data_root=tmp_path).to_text()
    assert said in shown if said else "draw of ten" not in shown


def test_a_half_width_takes_a_first_round_at_least_and_bars_grow_with_the_rounds_after_it(tmp_path, run, tiny):
    text = tiny.replace("trials: 4", "trials: {half_width: 0.05, max: 80}\nimages: auto")
    plan, store = make_plan(parse_spec(text), LocalCatalog(tmp_path)), tmp_path / "store"
    before = preview(plan, None, cpus=2, data_root=tmp_path)
    points = 2 * 2  # runs, sets of targets; each with 1 trial at eta 0 and two etas above it
    # 100 test images have 12 strata at most, of 4 images each in the first round: as many draws as `min: 8` on all
    # images would cost, a draw being worth 16.
    first = int(8 * (100 + 16) / (12 * 4 + 16))
    assert (before.rows_min, before.rows_max) == (points * (1 + 2 * first), points * (1 + 2 * 80))
    log = io.StringIO()
    run(text, store, listener=PlainProgress(log))
    trials = Store.open(store).read("trials").num_rows
    assert trials > before.rows_min, "some points take further rounds"
    assert log.getvalue().splitlines()[-1].startswith(f"runs 2/2  epochs 4/4  trials {trials}/{trials} ")
    after = preview(plan, Store.open(store), cpus=2, data_root=tmp_path)
    assert (after.rows_done, after.rows_missing, after.blocks_missing) == (trials, 0, 0)

    # Networks that were lost are trained again, and nothing else is waited for.
    for path in (store / "networks").iterdir():
        path.unlink()
    log = io.StringIO()
    run(text, store, listener=PlainProgress(log))
    last = log.getvalue().splitlines()[-1]
    assert last.startswith(f"runs 2/2  epochs 4/4  trials {trials}/{trials} "), last
    assert last.endswith("0:00 left")


def test_a_network_that_is_lost_on_the_way_is_one_run_all_the_same(tmp_path, run, tiny, monkeypatch):
    store, score, log = tmp_path / "store", work.score_block, io.StringIO()
    run(tiny, store)

    def loses(task, dataset):
        monkeypatch.setattr(work, "score_block", score)
        for path in (store / "networks").glob(f"{task.run.run_id}*"):
            path.unlink()
        raise StoreDamagedError("gone")

    class Shares(PlainProgress):
        def heard(self, outcome):
            super().heard(outcome)
            shares.append(self._work.share_done)

    shares = []
    monkeypatch.setattr(work, "score_block", loses)
    assert run(tiny.replace("trials: 4", "trials: 5"), store, listener=Shares(log)).runs_done == 1
    assert all(0 <= share <= 1 for share in shares), shares
    assert shares[-1] == pytest.approx(1)
    assert log.getvalue().splitlines()[-1].startswith("runs 2/2  epochs 2/2  trials 44/44 ")


def test_what_is_tried_again_is_counted_once_more(tmp_path, run, tiny, monkeypatch):
    """Networks that fail, fail again, and end well."""
    (tmp_path / "shaky_nets.py").write_text(SHAKY)
    monkeypatch.syspath_prepend(tmp_path)
    trouble = tmp_path / "trouble"
    monkeypatch.setenv("SHAKY", str(trouble))
    trouble.touch()
    text, store = tiny.replace("resnet8", "import:shaky_nets:make"), tmp_path / "store"
    for more, landed in (({}, 0), ({"retry_failed": True}, 0), ({"retry_failed": True}, 36)):
        if landed:
            trouble.unlink()
        log = io.StringIO()
        run(text, store, listener=PlainProgress(log), **more)
        assert log.getvalue().splitlines()[-1].startswith(f"runs 2/2  epochs 4/4  trials {landed}/{landed} ")


def _driver(plan, store):
    return Driver(plan, store, datasets={}, listener=Silent())
