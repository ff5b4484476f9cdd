"""Stores put together: the parts of a real sweep, and whatever else two stores can have in common."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import yaml

from bnsweep.analysis.database import open_database
from bnsweep.errors import InputError, StoreClaimedError, UnknownNameError
from bnsweep.experiment.identity import canonical_json
from bnsweep.experiment.plan import make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.store import merge as merging
from bnsweep.store.export import copy_rows, export
from bnsweep.store.merge import merge
from bnsweep.store.schema import KEYS, SCHEMAS, VOLATILE
from bnsweep.store.store import Store
from bnsweep.store.verify import verify
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


def assert_same_answer(database, other, query):
    """The same rows in the same order; floats but for the order in which their sums were taken."""
    answer, wanted = (each.query(query).to_dicts() for each in (database, other))
    assert len(answer) == len(wanted) > 0
    for row, expected in zip(answer, wanted, strict=True):
        for name, value in expected.items():
            close = pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value
            assert row.pop(name) == close, name
        assert not row


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
        merged = merge(store, Store.open(halves / name))
        assert (merged.runs, merged.trials, merged.networks) == (2, ALL // 2, 2)
        assert (merged.lost, merged.apart, merged.kept) == (0, 0, ())
    whole = Store.open(halves / "whole")
    for table in SCHEMAS:
        assert rows(store, table) == rows(whole, table), table
    assert store.checkpoints.networks() == whole.checkpoints.networks()
    assert verify(store).ok
    summary = run(tmp_path / "all")
    assert summary.lines(again="") == ["nothing to do: every row has landed"]


def test_a_merge_again_changes_nothing_and_a_store_of_both_takes_the_rest(halves, tmp_path):
    store = Store.create(tmp_path / "all")
    merge(store, Store.open(halves / "second"))
    before = store.state.seq
    merged = merge(store, Store.open(halves / "second"))
    assert (merged.runs, merged.trials, merged.networks, merged.apart) == (0, 0, 0, 0)
    assert merge(store, Store.open(halves / "whole")).trials == ALL // 2
    assert store.rows("trials") == ALL
    assert store.rows("sweeps") == 1
    assert store.state.seq > before


def test_trials_of_the_same_network_are_joined(halves, tmp_path):
    """More draws elsewhere, of a copy of the store."""
    more = tmp_path / "more"
    merge(Store.create(more), Store.open(halves / "first"))
    text = SPEC.replace("trials: 3", "trials: 5")
    run(more, text=text, part=(1, 2))
    store = Store.create(tmp_path / "all")
    merge(store, Store.open(halves / "first"))
    merged = merge(store, Store.open(more))
    assert (merged.runs, merged.trials, merged.networks, merged.apart) == (0, 2 * 2 * 2, 0, 0)
    # It asks for more there than here: that is told, and what this store asks for is not changed by the way.
    assert merged.kept == ("tiny",)
    assert merged.lines()[1] == "  asked for otherwise there, kept as it is here: tiny"
    specs = [row["spec_sha256"] for row in rows(store, "sweeps")]
    assert len(specs) == 3
    assert specs[2] == specs[0] != specs[1]
    told = open_database(store).query("accuracy")
    assert {row["n"] for row in told.to_dicts() if row["eta"]} == {3}, "the draws beyond the plan are not counted"
    assert merge(store, Store.open(more)).kept == ("tiny",)
    assert store.rows("sweeps") == 3, "and again nothing changes"
    run(tmp_path / "all", text=text, part=(1, 2))
    told = open_database(Store.open(tmp_path / "all")).query("accuracy")
    assert {row["n"] for row in told.to_dicts() if row["eta"]} == {5}


def test_a_network_trained_apart_is_not_mixed_with_ours(halves, tmp_path):
    """As another kind of processor would have it: the same run, other last bits."""
    other = Store.create(tmp_path / "other")
    source = Store.open(halves / "first")
    runs = source.read("runs")
    changed = pa.array(["f" * 64] * runs.num_rows)
    index = runs.schema.get_field_index("checkpoint_sha256")
    other.commit({"runs": runs.set_column(index, runs.schema.field(index), changed), "trials": source.read("trials")})
    store = Store.create(tmp_path / "all")
    merge(store, source)
    before = rows(store, "trials")
    merged = merge(store, other)
    assert (merged.runs, merged.trials, merged.apart) == (0, 0, 2)
    assert merged.lines()[1] == "  2 runs were trained apart, to other networks: their rows there were not taken"
    assert rows(store, "trials") == before


def with_columns(table, **values):
    """The table with these values in all rows."""
    for name, value in values.items():
        index = table.schema.get_field_index(name)
        column = pa.repeat(pa.scalar(value, table.schema.field(name).type), table.num_rows)
        table = table.set_column(index, table.schema.field(name), column)
    return table


def store_of(location, *tables):
    """A store with these rows: (name, rows) in turn."""
    store = Store.create(location)
    for name, table in tables:
        store.commit({name: table})
    return store


def test_an_earlier_network_of_a_run_counts_too(halves, tmp_path):
    """Another network before the last attempt, on either side: its trials may be there, and nobody can tell."""
    source = Store.open(halves / "first")
    runs, trials = source.read("runs"), source.read("trials")
    before = with_columns(runs, checkpoint_sha256="f" * 64)
    failed = with_columns(runs, checkpoint_sha256=None, status="failed", attempt=2)
    here = store_of(tmp_path / "here", ("runs", before), ("trials", trials.slice(0, 4)), ("runs", failed))
    merged = merge(here, source)
    assert (merged.runs, merged.trials, merged.apart) == (0, 0, 2)
    again = with_columns(runs, attempt=2)
    there = store_of(tmp_path / "there", ("runs", before), ("trials", trials), ("runs", again))
    store = store_of(tmp_path / "all", ("runs", runs))
    merged = merge(store, there)
    assert (merged.runs, merged.trials, merged.apart) == (0, 0, 2)
    # Trials of a network whose row is lost are somebody's, too.
    orphaned = store_of(tmp_path / "orphaned", ("trials", trials.slice(0, 4)))
    assert merge(orphaned, source).apart >= 1
    assert orphaned.rows("trials") < ALL // 2 + 4
    assert merge(store_of(tmp_path / "none"), orphaned.refresh()).unowned == 4


def test_of_two_ends_without_a_network_the_one_here_stays(halves, tmp_path):
    source = Store.open(halves / "first")
    runs, epochs = source.read("runs"), source.read("epochs")
    pruned = with_columns(runs, checkpoint_sha256=None, status="pruned", epochs_run=1)
    longer = pa.concat_tables([epochs, with_columns(epochs, epoch=2)])
    here = store_of(tmp_path / "here", ("runs", pruned), ("epochs", epochs))
    there = store_of(tmp_path / "there", ("runs", with_columns(pruned, epochs_run=2)), ("epochs", longer))
    merged = merge(here, there)
    assert (merged.runs, merged.apart) == (0, 0)
    assert here.rows("epochs") == epochs.num_rows
    # What trained it in full is news.
    assert merge(here, source).runs == 2
    assert sorted((row["attempt"], row["status"]) for row in rows(here, "runs"))[-1] == (2, "finished")
    assert here.rows("epochs") == epochs.num_rows
    diverged = with_columns(runs, checkpoint_sha256=None, status="diverged")
    assert merge(store_of(tmp_path / "diverged", ("runs", diverged)), source).apart == 2


def test_searches_are_joined_if_they_went_one_way(tmp_path):
    """The same spec, and proposals by number: a copy that went on is news, another course is not."""

    def proposals(*masks):
        columns = {"sweep": "seek", "spec_sha256": "s", "study": "front", "origin": "known", "why": ""}
        columns |= {"number": list(range(1, len(masks) + 1)), "run_id": [f"run{m}" for m in masks]}
        columns |= {**store_rows.NETWORK, "bn_mask": list(masks)}
        return store_rows.build("proposals", len(masks), columns)

    def points(*masks):
        names = [f"point{mask}" for mask in masks]
        return with_columns(store_rows.points(len(masks)), sweep="seek", spec_sha256="s").set_column(
            SCHEMAS["points"].get_field_index("point_id"), SCHEMAS["points"].field("point_id"), pa.array(names)
        )

    def search(name, *masks):
        spec = with_columns(store_rows.sweeps(), sweep="seek", spec_sha256="s")
        return store_of(tmp_path / name, ("sweeps", spec), ("proposals", proposals(*masks)), ("points", points(*masks)))

    store, other = search("all", "11", "10"), search("other", "11", "01")
    merged = merge(store, search("on", "11", "10", "00"))
    assert merged.kept == ()
    assert (store.rows("proposals"), store.rows("points"), store.rows("sweeps")) == (3, 3, 1)
    merged = merge(store, other)
    assert merged.kept == ("seek",)
    assert (store.rows("proposals"), store.rows("points"), store.rows("sweeps")) == (3, 3, 1)


def test_a_search_in_which_what_failed_was_done_again_is_the_same_search(tmp_path):
    """The second of its proposals failed there and here; done again, it led elsewhere, under a number that is taken."""

    def search(name, *numbered):
        columns = {"sweep": "seek", "spec_sha256": "s", "study": "front", "origin": "surrogate", "why": ""}
        columns |= {"number": [number for number, _ in numbered], "run_id": [f"run{mask}" for _, mask in numbered]}
        columns |= {**store_rows.NETWORK, "bn_mask": [mask for _, mask in numbered]}
        spec = with_columns(store_rows.sweeps(), sweep="seek", spec_sha256="s")
        rows = store_rows.build("proposals", len(numbered), columns)
        return store_of(tmp_path / name, ("sweeps", spec), ("proposals", rows))

    store = search("here", (1, "11"), (2, "10"), (3, "00"))
    assert merge(store, search("there", (1, "11"), (2, "10"), (3, "00"), (3, "01"))).kept == ()
    told = store.read("proposals", unique=True).select(["number", "bn_mask"]).to_pylist()
    assert [(row["number"], row["bn_mask"]) for row in told] == [(1, "11"), (2, "10"), (3, "00"), (3, "01")]
    assert verify(store).ok


def test_much_is_taken_in_groups_of_whole_runs(halves, tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "TRIALS_AT_ONCE", ALL // 4)
    store = Store.create(tmp_path / "all")
    merged = merge(store, Store.open(halves / "whole"))
    assert (merged.runs, merged.trials, merged.networks) == (4, ALL, 4)
    assert len(store.parts("trials")) == len(store.parts("runs")) == 4
    assert [row["run_id"] for row in rows(store, "runs")] == [
        row["run_id"] for row in rows(Store.open(halves / "whole"), "runs")
    ]
    assert verify(store).ok
    for table in SCHEMAS:
        assert rows(store, table) == rows(Store.open(halves / "whole"), table), table
    before = store.state.seq
    assert merge(store, Store.open(tmp_path / "all")).lines() == [
        f"{store.location}: 0 runs, 0 trials and 0 networks are new"
    ]
    assert {part.path for part in store.parts()} == {part.path for part in Store.open(tmp_path / "all").parts()}
    assert store.state.seq == before + 1, "a store merged into itself takes the claim and nothing else"


def test_a_result_replaces_a_failure_and_its_attempt_follows(halves, tmp_path):
    source = Store.open(halves / "first")
    runs = source.read("runs")
    failed = with_columns(runs, status="failed", checkpoint_sha256=None, attempt=2)
    store = Store.create(tmp_path / "all")
    store.commit({"runs": failed})
    merged = merge(store, source)
    assert (merged.runs, merged.trials) == (2, ALL // 2)
    ends = sorted((row["attempt"], row["status"]) for row in rows(store, "runs"))
    first = runs["attempt"][0].as_py()
    assert ends == [(2, "failed")] * 2 + [(2 + first, "finished")] * 2
    # The other way round a failure is no news.
    fails = Store.create(tmp_path / "fails")
    fails.commit({"runs": failed})
    keeps = Store.create(tmp_path / "keeps")
    merge(keeps, source)
    assert merge(keeps, fails).lines() == [f"{fails.location}: 0 runs, 0 trials and 0 networks are new"]


def test_a_merge_again_brings_what_has_ended_since_and_each_failure_once(halves, tmp_path):
    source = Store.create(tmp_path / "source")
    runs = Store.open(halves / "first").read("runs").slice(0, 1)
    run_id, failures = runs["run_id"][0].as_py(), SCHEMAS["failures"].names
    gone = with_columns(runs, status="failed", checkpoint_sha256=None, attempt=3)
    failure = dict.fromkeys(failures) | {"sweep": "half", "run_id": run_id, "error": "out of memory", "attempt": 3}
    source.commit({"runs": gone, "failures": pa.Table.from_pylist([failure], schema=SCHEMAS["failures"])})
    store = Store.create(tmp_path / "all")
    merge(store, source)
    sha256 = source.put_network(
        run_id, Store.open(halves / "first").get_network(run_id, runs["checkpoint_sha256"][0].as_py())
    )
    source.commit({"runs": with_columns(runs, attempt=4, checkpoint_sha256=sha256)})
    assert merge(store, source).runs == 1
    assert sorted((row["attempt"], row["status"]) for row in rows(store, "runs"))[0] == (3, "failed")
    assert [row["status"] for row in sorted(rows(store, "runs"), key=lambda row: row["attempt"])] == [
        "failed",
        "finished",
    ]
    assert len(rows(store, "failures")) == 1
    # A block that is given up after its run was taken is news too.
    block = {**failure, "point_id": "p", "first_trial": 0, "trials": 4, "attempt": 1}
    source.commit({"failures": pa.Table.from_pylist([block], schema=SCHEMAS["failures"])})
    for _ in range(2):
        merge(store, source)
        assert sorted(row["point_id"] or "" for row in rows(store, "failures")) == ["", "p"]


def test_published_rows_have_no_networks_and_get_them_back(halves, tmp_path):
    copy_rows(Store.open(halves / "first"), tmp_path / "published")
    store = Store.create(tmp_path / "all")
    merged = merge(store, Store.open(tmp_path / "published"))
    assert (merged.runs, merged.networks, merged.lost) == (2, 0, 2)
    assert any("2 networks are not there" in line for line in merged.lines())
    again = merge(store, Store.open(halves / "first"))
    assert (again.runs, again.trials, again.networks) == (0, 0, 2)


@pytest.mark.parametrize(
    ("written", "told", "sources", "names"),
    [
        ("data: cifar10", "data: cifar10", ["parquet:/srv/ann/cifar10/"], ["parquet:cifar10"]),  # by --data
        ("data: [folder:~/cats, digits]", "data: [folder:cats, digits]", ["folder:~/cats", "digits"], None),
        ("data: {source: folder:own/cats} # mine", "data: {source: folder:cats} # mine", ["folder:own/cats"], None),
        ("data: [folder:/a, folder:/a/b]", "data: [folder:a, folder:b]", ["folder:/a", "folder:/a/b"], None),
        (
            "data: folder:/a/cats\nmodels: [resnet8, {name: vgg16, weights: null}]",
            "data: folder:cats\nmodels: [resnet8, {name: vgg16, weights: null}]",
            ["folder:/a/cats"],
            None,
        ),
        ('data: "folder:/srv/\\u00fc/cats"', None, ["folder:/srv/\u00fc/cats"], ["folder:cats"]),
        ("data: 'folder:/\u00fc \"x\"/cats'", "data: 'folder:cats'", ['folder:/\u00fc "x"/cats'], None),
    ],
)
def test_published_specs_tell_nobody_s_folders(written, told, sources, names, halves, tmp_path):
    (*_, asked) = rows(Store.open(halves / "first"), "sweeps")
    spec = json.loads(asked["spec"]) | {"data": [{"source": source} for source in sources]}
    row = asked | {"spec": canonical_json(spec), "spec_yaml": written}
    source = Store.create(tmp_path / "store")
    source.commit({"sweeps": pa.Table.from_pylist([row], schema=SCHEMAS["sweeps"])})
    copy_rows(source, tmp_path / "copy")
    (copied,) = rows(Store.open(tmp_path / "copy"), "sweeps")
    if names is None:
        names = yaml.safe_load(told)["data"]
        names = [names["source"]] if isinstance(names, dict) else [names] if isinstance(names, str) else names
    assert copied["spec"] == canonical_json(spec | {"data": [{"source": name} for name in names]})
    assert copied["spec_yaml"] == (copied["spec"] if told is None else told)
    assert copied["spec_sha256"] == asked["spec_sha256"], "which names the version that was run"


def test_published_rows_are_those_that_the_newest_plan_asks_for(tmp_path):
    run(tmp_path / "store")
    run(tmp_path / "store", SPEC.replace("trials: 3", "trials: 2"))
    source = Store.open(tmp_path / "store")
    copy_rows(source, tmp_path / "copy")
    copy = Store.open(tmp_path / "copy")
    assert (source.rows("trials"), copy.rows("trials")) == (ALL, 4 * 2 * (1 + 2))
    with open_database(source) as original, open_database(copy) as published:
        assert_same_answer(published, original, "accuracy")


def test_a_sweep_s_rows_are_exported_whoever_asked_for_them_first(tmp_path):
    """`other` plans half of what `tiny` ran before it, of fewer trials, and an eta of its own."""
    run(tmp_path / "store")
    other = SPEC.replace("tiny", "other").replace("[all, none]", "[all]").replace("[0, 0.1]", "[0, 0.1, 0.2]")
    run(tmp_path / "store", other.replace("trials: 3", "trials: 2"))
    source = Store.open(tmp_path / "store")
    mine = 2 * 2 * (1 + 2 + 2)  # seeds, cells, trials per eta
    for form, read in (("csv", pa_csv.read_csv), ("parquet", pq.read_table)):
        export(source, tmp_path / form, format=form, sweep="other")
        tables = {path.stem: read(path) for path in (tmp_path / form).glob(f"*.{form}")}
        counts = {name: table.num_rows for name, table in tables.items()}
        wanted = {"sweeps": 1, "points": 2 * 2 * 3, "runs": 2, "epochs": 2, "trials": mine}
        assert {**counts, **wanted} == counts
        assert {"tiny", "other"} == set(tables["trials"]["sweep"].to_pylist())
    specs = json.loads((tmp_path / "csv" / "provenance.json").read_text())["specs"]
    assert [spec["sweep"] for spec in specs] == ["other"]
    copy_rows(source, tmp_path / "copy", sweep="other")
    with open_database(source, sweep="other") as original, open_database(Store.open(tmp_path / "copy")) as published:
        assert published.sweeps == ("other",)
        assert_same_answer(published, original, "accuracy")
        assert sum(published.query("accuracy").column("n")) == mine
    with pytest.raises(UnknownNameError, match="unknown sweep 'another'. Did you mean 'other'"):
        export(source, tmp_path / "none", sweep="another")


def test_two_stores_with_other_sweeps_become_one_with_both(halves, tmp_path):
    store = Store.create(tmp_path / "all")
    trials = store_rows.trials(100)
    store.commit({"trials": trials})
    merge(store, Store.open(halves / "first"))
    assert store.rows("trials") == 100 + ALL // 2
    assert pc.sum(pc.equal(store.read("trials")["sweep"], "test")).as_py() == 100


def test_a_store_that_somebody_writes_to_is_not_merged_into(halves, tmp_path):
    store = Store.create(tmp_path / "all")
    with store.claim(), pytest.raises(StoreClaimedError):
        merge(Store.open(tmp_path / "all", writable=True), Store.open(halves / "first"))
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
