"""Stores put together: the parts of a real sweep, and whatever else two stores can have in common."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from bnsweep.errors import InputError, StoreClaimedError
from bnsweep.experiment.plan import make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.store.schema import KEYS, SCHEMAS, VOLATILE
from bnsweep.store.store import Store
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.progress import Silent
from bnsweep.sweep.run import run_sweep
from tests.store import store_rows
from tests.sweep.sweep_helpers import bnsweep

SPEC = """\
name: tiny
data: {source: digits, train_images: 100, test_images: 50}
models: resnet8
placements: [all, none]
train_seeds: 2
training: {epochs: 1, batch_size: 50, chance_epochs: null}
noise: {targets: [weights, all]}
eta: [0, 0.1]
trials: 3
"""
ALL = 4 * 2 * (1 + 3)  # runs, cells, trials


def plan_of(text, root):
    return make_plan(parse_spec(text), LocalCatalog(root))


def run(location, text=SPEC, part=None):
    root = location.parent
    return run_sweep(
        plan_of(text, root), str(location), text=text, part=part, engine="inline", data_root=root, listener=Silent()
    )


def rows(store, table):
    """What identifies and says something, in the order of the key."""
    columns = [name for name in SCHEMAS[table].names if name not in VOLATILE or name in KEYS[table]]
    return store.read(table, columns=columns).sort_by([(key, "ascending") for key in KEYS[table]]).to_pylist()


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """A sweep in two parts, and the same in one."""
    folder = tmp_path_factory.mktemp("halves")
    for name, part in (("first", (1, 2)), ("second", (2, 2)), ("whole", None)):
        run(folder / name, part=part)
    return folder


def test_parts_share_no_run_and_are_the_whole(tmp_path):
    plan = plan_of(SPEC, tmp_path)
    ids = [[run.run_id for run in plan.part(number, 3).runs] for number in (1, 2, 3)]
    assert sorted(map(len, ids)) == [1, 1, 2]
    assert sorted(run_id for part in ids for run_id in part) == sorted(run.run_id for run in plan.runs)
    with pytest.raises(InputError, match=r"at least N training runs, but got 5/5 of 'tiny' with 4"):
        plan.part(5, 5)
    with pytest.raises(InputError, match="got 0/2"):
        plan.part(0, 2)


def test_a_part_knows_the_whole_plan(halves):
    first = Store.open(halves / "first")
    assert first.rows("runs") == 2
    assert rows(first, "points") == rows(Store.open(halves / "whole"), "points")
    assert rows(first, "sweeps")[0]["planned_runs"] == 4


def test_merged_parts_are_what_one_run_gives(halves, tmp_path):
    store = Store.create(tmp_path / "all")
    for name in ("first", "second"):
        merged = store.merge(Store.open(halves / name))
        assert (merged.runs, merged.trials, merged.networks) == (2, ALL // 2, 2)
        assert (merged.lost, merged.apart, merged.kept) == (0, 0, ())
    whole = Store.open(halves / "whole")
    for table in SCHEMAS:
        assert rows(store, table) == rows(whole, table), table
    assert store.checkpoints.networks() == whole.checkpoints.networks()
    assert store.verify().ok
    summary = run(tmp_path / "all")
    assert summary.lines(again="") == ["nothing to do: every row has landed"]


def test_a_merge_again_changes_nothing_and_a_store_of_both_takes_the_rest(halves, tmp_path):
    store = Store.create(tmp_path / "all")
    store.merge(Store.open(halves / "second"))
    before = store.state.seq
    merged = store.merge(Store.open(halves / "second"))
    assert (merged.runs, merged.trials, merged.networks, merged.apart) == (0, 0, 0, 0)
    assert store.merge(Store.open(halves / "whole")).trials == ALL // 2
    assert store.rows("trials") == ALL
    assert store.rows("sweeps") == 1
    assert store.state.seq > before


def test_trials_of_the_same_network_are_joined(halves, tmp_path):
    """More draws elsewhere, of a copy of the store."""
    more = tmp_path / "more"
    Store.create(more).merge(Store.open(halves / "first"))
    text = SPEC.replace("trials: 3", "trials: 5")
    run(more, text=text, part=(1, 2))
    store = Store.create(tmp_path / "all")
    store.merge(Store.open(halves / "first"))
    merged = store.merge(Store.open(more))
    assert (merged.runs, merged.trials, merged.networks, merged.apart) == (0, 2 * 2 * 2, 0, 0)
    # It asks for more there than here: that is told, and what this store plans is not changed by the way.
    assert merged.kept == ("tiny",)
    assert any("planned otherwise there, kept as here: tiny" in line for line in merged.lines())
    assert [row["revision"] for row in rows(store, "sweeps")] == [1]


def test_a_network_trained_apart_is_not_mixed_with_ours(halves, tmp_path):
    """As another kind of processor would have it: the same run, other last bits."""
    other = Store.create(tmp_path / "other")
    source = Store.open(halves / "first")
    runs = source.read("runs")
    changed = pa.array(["f" * 64] * runs.num_rows)
    index = runs.schema.get_field_index("checkpoint_sha256")
    other.commit({"runs": runs.set_column(index, runs.schema.field(index), changed), "trials": source.read("trials")})
    store = Store.create(tmp_path / "all")
    store.merge(source)
    before = rows(store, "trials")
    merged = store.merge(other)
    assert (merged.runs, merged.trials, merged.apart) == (0, 0, 2)
    assert any("2 runs are in both, trained apart: those here were kept" in line for line in merged.lines())
    assert rows(store, "trials") == before


def test_a_result_replaces_a_failure_and_its_attempt_follows(halves, tmp_path):
    source = Store.open(halves / "first")
    runs = source.read("runs")

    def with_columns(**values):
        table = runs
        for name, value in values.items():
            index = table.schema.get_field_index(name)
            column = pa.repeat(pa.scalar(value, table.schema.field(name).type), table.num_rows)
            table = table.set_column(index, table.schema.field(name), column)
        return table

    failed = with_columns(status="failed", checkpoint_sha256=None, attempt=2)
    store = Store.create(tmp_path / "all")
    store.commit({"runs": failed})
    merged = store.merge(source)
    assert (merged.runs, merged.trials) == (2, ALL // 2)
    ends = sorted((row["attempt"], row["status"]) for row in rows(store, "runs"))
    first = runs["attempt"][0].as_py()
    assert ends == [(2, "failed")] * 2 + [(2 + first, "finished")] * 2
    # The other way round a failure is no news.
    fails = Store.create(tmp_path / "fails")
    fails.commit({"runs": failed})
    keeps = Store.create(tmp_path / "keeps")
    keeps.merge(source)
    assert keeps.merge(fails).lines() == [f"{fails.location}: 0 runs, 0 trials and 0 networks are new"]


def test_published_rows_have_no_networks_and_get_them_back(halves, tmp_path):
    Store.open(halves / "first").copy_rows(tmp_path / "published")
    store = Store.create(tmp_path / "all")
    merged = store.merge(Store.open(tmp_path / "published"))
    assert (merged.runs, merged.networks, merged.lost) == (2, 0, 2)
    assert any("2 networks are not there" in line for line in merged.lines())
    again = store.merge(Store.open(halves / "first"))
    assert (again.runs, again.trials, again.networks) == (0, 0, 2)


def test_two_stores_with_other_sweeps_become_one_with_both(halves, tmp_path):
    store = Store.create(tmp_path / "all")
    trials = store_rows.trials(100)
    store.commit({"trials": trials})
    store.merge(Store.open(halves / "first"))
    assert store.rows("trials") == 100 + ALL // 2
    assert pc.sum(pc.equal(store.read("trials")["sweep"], "test")).as_py() == 100


def test_a_store_that_somebody_writes_to_is_not_merged_into(halves, tmp_path):
    store = Store.create(tmp_path / "all")
    with store.claim(), pytest.raises(StoreClaimedError):
        Store.open(tmp_path / "all", writable=True).merge(Store.open(halves / "first"))
    assert store.refresh().rows("trials") == 0


def test_the_command_line(halves, tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    for part, why in (("3/2", "1 <= K <= N, such as 3/16, but got '3/2'"), ("5/8", "but got 5/8 of 'tiny' with 4")):
        refused = bnsweep("plan", spec, "--part", part, "--store", tmp_path / "none")
        assert (refused.returncode, why in refused.stderr) == (2, True), refused.stderr
    planned = bnsweep("plan", spec, "--part", "2/4", "--store", halves / "second").stdout
    assert "1 planned, 1 done, 0 missing" in planned
    refused = bnsweep("store", "merge", halves / "first", tmp_path / "none", "--store", tmp_path / "all")
    assert refused.returncode != 0
    assert "holds no store" in refused.stderr
    assert not (tmp_path / "all").exists()
    done = bnsweep("store", "merge", halves / "first", halves / "second", "--store", tmp_path / "all")
    assert done.stdout.count("2 runs, 16 trials and 2 networks are new") == 2, done.stdout + done.stderr
    assert "4 planned, 4 done, 0 missing" in bnsweep("plan", spec, "--store", tmp_path / "all").stdout
