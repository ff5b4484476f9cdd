from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import store_rows

from bnsweep.errors import InputError, SchemaError, StoreDamagedError, StoreError, UnknownNameError
from bnsweep.store import parts, schema
from bnsweep.store.compact import compact
from bnsweep.store.export import copy_rows, export
from bnsweep.store.filesystem import LocalFiles
from bnsweep.store.log import Log, LogEntry
from bnsweep.store.schema import KEYS, SCHEMAS
from bnsweep.store.store import Store
from bnsweep.store.verify import verify


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def files_of(store: Store, folder: str) -> list[str]:
    return [entry.name for entry in store.files.list(folder)]


def test_rows_come_back_as_they_were_committed(store: Store) -> None:
    wanted = store_rows.trials(100)
    store.commit({"trials": wanted, "runs": store_rows.runs(3)})
    read = Store.open(store.location).read("trials")
    assert read.schema.equals(SCHEMAS["trials"], check_metadata=True)
    order = [("run_id", "ascending"), ("point_id", "ascending"), ("trial", "ascending")]
    assert read.drop_columns(["committed_at"]).equals(
        wanted.sort_by(order).cast(read.drop_columns(["committed_at"]).schema)
    )
    assert read["committed_at"].null_count == 0
    assert store.read("runs")["strata_sizes"].to_pylist() == [[5_000, 3_000, 2_000]] * 3


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_table_can_be_committed_and_read(store: Store, name: str) -> None:
    values = {field.name: "x" if pa.types.is_string(field.type) else None for field in SCHEMAS[name]}
    values |= {key: 1 for key in KEYS[name] if pa.types.is_integer(SCHEMAS[name].field(key).type)}
    store.commit({name: store_rows.build(name, 1, values)})
    assert store.read(name).num_rows == store.rows(name) == 1
    assert store.read(name).schema.equals(SCHEMAS[name])
    assert pq.read_schema(store.part_paths(name)[0]).field(0).metadata[b"meaning"]


def test_a_part_is_named_by_its_keys_and_its_bytes_which_depend_on_its_rows_alone(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    rows = store_rows.trials(500)
    stamped = rows.append_column("committed_at", pa.repeat(pa.scalar(now, pa.timestamp("us", tz="UTC")), 500))
    backwards = stamped.take(pa.array(range(499, -1, -1)))
    made = []
    for name, table in (("a", stamped), ("b", backwards), ("c", pa.concat_tables([backwards[:100], backwards[100:]]))):
        made += Store.create(tmp_path / name).commit({"trials": table})
    assert len({(part.path, part.sha256) for part in made}) == 1
    other = Store.create(tmp_path / "d").commit({"trials": store_rows.trials(500, seed=1)})
    assert Path(other[0].path).name[:32] == Path(made[0].path).name[:32]
    assert other[0].path != made[0].path
    assert other[0].sha256.startswith(Path(other[0].path).stem[32:])


def test_committing_the_same_rows_again_adds_nothing(store: Store) -> None:
    store.commit({"trials": store_rows.trials(50)})
    before = store.state.parts
    assert store.commit({"trials": store_rows.trials(50)}) == []
    assert Store.open(store.location).state.parts == before


def test_rows_that_disagree_with_live_ones_are_kept_beside_them(store: Store) -> None:
    store.commit({"trials": store_rows.trials(50)})
    store.commit({"trials": store_rows.trials(50, seed=1)})
    assert store.rows("trials") == 100
    first = store.read("trials", unique=True)
    assert sorted(first["correct"].to_pylist()) == sorted(store_rows.trials(50)["correct"].to_pylist())
    assert first.num_rows == 50


def test_all_tables_of_a_commit_appear_together(store: Store) -> None:
    reader = Store.open(store.location)
    store.commit({"trials": store_rows.trials(10), "runs": store_rows.runs(1)})
    assert reader.rows("trials") == reader.rows("runs") == 0
    reader.refresh()
    assert (reader.rows("trials"), reader.rows("runs")) == (10, 1)
    names = files_of(store, "log")
    assert len(names) == 2  # the claim's fence and the commit


def test_readers_use_the_list_and_never_the_folder(store: Store) -> None:
    store.commit({"trials": store_rows.trials(10)})
    stray = Path(store.location, "parts/trials/00000000000000000000000000000000.parquet")
    stray.write_bytes(b"torn")
    assert Store.open(store.location).read("trials").num_rows == 10
    (path,) = store.part_paths("trials")
    assert Path(path).is_absolute()
    assert pq.read_table(path, filesystem=store.filesystem).num_rows == 10


def test_reading_columns_and_filters(store: Store) -> None:
    store.commit({"trials": store_rows.trials(40)})
    store.commit({"trials": store_rows.trials(40, start=40)})
    read = store.read("trials", columns=["trial", "correct"], filter=pc.field("trial") < 3)
    assert read.column_names == ["trial", "correct"]
    assert read.num_rows == 4 * 3  # 80 rows are 4 points of 20 trials
    assert len(store_rows.key_set(store, "trials")) == 80
    assert store.keys("trials").column_names == list(KEYS["trials"])
    assert store.read("epochs").num_rows == 0
    with pytest.raises(UnknownNameError, match="unknown table 'trails'. Did you mean 'trials'"):
        store.read("trails")
    with pytest.raises(UnknownNameError, match="unknown column of trials 'acuracy'. Did you mean 'accuracy'"):
        store.read("trials", columns=["acuracy"])


def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(store: Store) -> None:
    good = store_rows.trials(10)
    index = good.column_names.index("images")
    cases = {
        "missing are: accuracy; unknown: none": good.drop_columns(["accuracy"]),
        "unknown: colour": good.append_column("colour", good["trial"]),
        "column 'images' of trials is int32": good.set_column(index, "images", pa.array(["many"] * 10)),
        "int64 that does not fit": good.set_column(index, "images", pa.array([2**40] * 10)),
        "two have {'point_id'": pa.concat_tables([good, good.slice(0, 1)]),
        "the key 'trial' of trials is never null": good.set_column(
            good.column_names.index("trial"), "trial", pa.nulls(10, pa.int32())
        ),
    }
    for message, rows in cases.items():
        with pytest.raises(StoreError, match=re.escape(message)):
            store.commit({"runs": store_rows.runs(1), "trials": rows})
    with pytest.raises(UnknownNameError, match="unknown table 'trial'"):
        store.commit({"trial": good})
    assert store.refresh().parts() == []
    assert files_of(store, "parts") == []


def test_narrower_types_are_widened_and_dictionaries_unpacked(store: Store) -> None:
    good = store_rows.trials(10)
    model = good.column_names.index("model")
    store.commit({"trials": good.set_column(model, "model", good["model"].dictionary_encode())})
    assert store.read("trials")["model"].type == pa.string()


def test_a_failed_training_run_has_a_null_point_in_its_key(store: Store) -> None:
    store.commit({"failures": store_rows.failures(2)})
    store.commit({"failures": store_rows.failures(2, attempt=4)})
    assert len(store_rows.key_set(store, "failures")) == 4
    with pytest.raises(StoreError, match="different keys"):
        store.commit({"failures": pa.concat_tables([store_rows.failures(1), store_rows.failures(1)])})


def test_opening_nothing_creating_twice_and_odd_locations(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no store"):
        Store.open(tmp_path / "none")
    Store.create(tmp_path / "a b'ü[1]?#")
    with pytest.raises(StoreError, match="is a store already"):
        Store.create(tmp_path / "a b'ü[1]?#")
    store = Store.open_or_create(tmp_path / "a b'ü[1]?#")
    store.commit({"trials": store_rows.trials(5)})
    assert store.read("trials").num_rows == 5
    assert Store.open(f"file://{tmp_path}/a%20b'ü%5B1%5D%3F%23").rows("trials") == 5
    for odd in ("file://data/store", "file:store", "file:/store", "file://", "file:///a%00b"):
        with pytest.raises(InputError, match=rf"or file:// and the folder's whole path, but got '{odd}'"):
            Store.open(odd)
    for odd in ("", "a\0b"):
        with pytest.raises(InputError, match="must be a folder or a URL, but got '") as refused:
            Store.open(odd)
        assert repr(odd) in str(refused.value)
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError, match="a store is a directory, but .*file is, or lies in, a file: give the location"
    ):
        Store.open(tmp_path / "file")
    with pytest.raises(UnknownNameError, match="unknown store location 'ftp://'"):
        Store.open("ftp://host/store")
    with pytest.raises(InputError, match="no credentials"):
        Store.open("s3://key:secret@bucket/store")
    with pytest.raises(UnknownNameError, match="unknown option of an s3:// location 'endpoint'"):
        Store.open("s3://bucket/store?endpoint=localhost")
    with pytest.raises(InputError, match=r"no '\.\.'"):
        Store.open("s3://bucket/../other")


@pytest.mark.parametrize("way", [Store.create, Store.open_existing, Store.open_or_create])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            "file",
            "a store is a directory, but .*/file is, or lies in, a file: give a store, or a",
        ),
        ("file/store", "a store is a directory, but .*/file/store is, or lies in, a file"),
        (
            "sources",
            r"of its own, but .*/sources holds other files \(a.py, b.py, c.py, \.\.\.\): give a store",
        ),
    ],
)
def test_a_place_that_is_taken_is_left_alone(
    tmp_path: Path, way: Callable[[Path], Any], place: str, message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "sources").mkdir()
    for name in ("a.py", "b.py", "c.py", "log"):
        (tmp_path / "sources" / name).touch()
    (tmp_path / "sources" / "data").mkdir()
    with pytest.raises(InputError, match=message):
        way(tmp_path / place)
    assert len(list((tmp_path / "sources").iterdir())) == 5


def test_a_store_is_made_where_there_is_nothing_of_anybody_s(tmp_path: Path) -> None:
    for folder in (
        "lost+found",
        ".snapshot",
        "service",
    ):  # a disk's, a file server's, a headless store's
        (tmp_path / "disk" / folder).mkdir(parents=True)
    for place in ("new", "disk"):
        assert Store.open_existing(tmp_path / place) is None
        Store.open_or_create(tmp_path / place)
        assert Store.open_existing(tmp_path / place) is not None


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "", "a/b", "..", "a\0b", "-x", "x" * 200, "ä"])
def test_a_run_id_cannot_leave_the_store(store: Store, run_id: str) -> None:
    with pytest.raises(StoreError, match="a run id has"):
        store.put_network(run_id, b"weights")
    with pytest.raises(StoreError, match="a run id has"):
        store.slot(run_id)


@pytest.mark.parametrize(
    "path", ["../x.parquet", "parts/trials/../../x.parquet", "/etc/passwd", "parts/runs/abcdef01.parquet"]
)
def test_a_log_from_elsewhere_cannot_point_outside(store: Store, path: str) -> None:
    part = parts.Part(path, "trials", 1, 1, "0" * 64)
    Log(store.files).publish(lambda _: LogEntry("commit", add=(part,)))
    with pytest.raises(StoreDamagedError, match="outside parts/TABLE/"):
        Store.open(store.location)
    with pytest.raises(StoreError, match="lies inside it"):
        store.files.read("../outside")


def test_networks_are_checked_when_read(store: Store) -> None:
    data = b"weights" * 1000
    sha256 = store.put_network("run-1", data)
    assert store.get_network("run-1", sha256) == data
    (name,) = files_of(store, "networks")
    assert {name} == {f"networks/run-1-{sha256[:16]}.safetensors"} == store.checkpoints.networks()
    path = Path(store.location, name)
    path.write_bytes(data[:-1] + b"S")
    with pytest.raises(StoreDamagedError, match="the network of run run-1 is damaged"):
        store.get_network("run-1", sha256)
    path.unlink()
    with pytest.raises(StoreDamagedError, match="the network of run run-1 is lost"):
        store.get_network("run-1", sha256)
    assert store.checkpoints.networks() == set()


def test_a_slot_keeps_the_latest_state_and_forgets_a_damaged_one(store: Store) -> None:
    slot = store.slot("run-1")
    assert slot.read() is None
    slot.write(b"epoch 1")
    slot.write(b"epoch 2")
    assert slot.read() == b"epoch 2"
    path = Path(store.location, "resume/run-1")
    path.write_bytes(path.read_bytes()[:-1])
    assert slot.read() is None
    slot.delete()
    slot.delete()
    assert not path.exists()


def test_a_newer_store_is_refused(store: Store) -> None:
    head = Path(store.location, "bnsweep-store.json")
    head.write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(
        SchemaError, match="schema version 99, and this bnsweep knows versions up to 1: upgrade"
    ) as raised:
        Store.open(store.location)
    assert raised.value.exit_code == 2
    head.write_text("{torn")
    with pytest.raises(StoreDamagedError, match="bnsweep-store.json is damaged"):
        Store.open(store.location)


def test_an_older_store_is_read_and_upgraded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.commit({"trials": store_rows.trials(30)})
    # A next version that adds a column, and one whose rows say something else about the old ones.
    wider = SCHEMAS["trials"].append(pa.field("energy_j", pa.float64(), metadata={"meaning": "energy"}))
    monkeypatch.setitem(schema.SCHEMAS, "trials", wider)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)

    def name_it(table: str, rows: pa.Table) -> pa.Table:
        if table != "trials":
            return rows
        return rows.set_column(rows.column_names.index("precision"), "precision", pa.array(["float32"] * rows.num_rows))

    monkeypatch.setitem(parts.UPGRADES, 1, name_it)
    older = Store.open(store.location)
    read = older.read("trials", columns=["precision", "energy_j"], filter=pc.field("trial") < 5)
    assert read.to_pylist() == [{"precision": "float32", "energy_j": None}] * 10
    with pytest.raises(SchemaError, match="has schema version 1 and can be read.*bnsweep store upgrade"):
        Store.open(store.location, writable=True)
    assert older.upgrade() == 1
    newer = Store.open(store.location, writable=True)
    assert {part.version for part in newer.parts()} == {2}
    assert newer.read("trials").drop_columns("committed_at").equals(older.read("trials").drop_columns("committed_at"))
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 1)
    with pytest.raises(SchemaError, match="schema version 2"):
        Store.open(store.location)


def test_an_upgrade_that_a_compaction_overtakes_does_the_rest_and_says_what_it_did(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit({"trials": store_rows.trials(30)})
    store.commit({"trials": store_rows.trials(30, start=30)})
    store.commit({"runs": store_rows.runs(1)})
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    older, write = Store.open(store.location), LocalFiles.write
    compactions = []

    def compact_first(files: LocalFiles, name: str, data: bytes | memoryview) -> None:
        if name.startswith("parts/") and not compactions:
            compactions.append(name)
            compact(Store.open(store.location), tables=["trials"])
        write(files, name, data)

    monkeypatch.setattr(LocalFiles, "write", compact_first)
    assert older.upgrade() == 1  # of runs; the compaction has those of trials
    assert {(part.table, part.version) for part in Store.open(store.location).parts()} == {("trials", 2), ("runs", 2)}
    assert Store.open(store.location).rows("trials") == 60


def test_export_and_its_provenance(store: Store, tmp_path: Path) -> None:
    store.commit({"sweeps": store_rows.sweeps(), "trials": store_rows.trials(50), "runs": store_rows.runs(2)})
    store.commit({"trials": store_rows.trials(50, seed=1)})  # the same keys: exported once
    written = export(store, tmp_path / "out", format="csv")
    assert [path.name for path in written] == ["sweeps.csv", "runs.csv", "trials.csv", "provenance.json"]
    table = pa_csv.read_csv(tmp_path / "out/trials.csv")
    assert table.num_rows == 50
    assert pa_csv.read_csv(tmp_path / "out/runs.csv")["strata_sizes"][0].as_py() == "[5000, 3000, 2000]"
    record = json.loads((tmp_path / "out/provenance.json").read_text())
    assert record["specs"][0]["spec_yaml"] == "name: test\n"
    assert record["computed_with"] == [store_rows.WORK["versions"]]
    assert {part["sha256"] for part in record["parts"]} == {part.sha256 for part in store.parts()}
    export(store, tmp_path / "out", tables=["trials"])
    assert (
        pq.read_table(tmp_path / "out/trials.parquet").cast(SCHEMAS["trials"]).equals(store.read("trials", unique=True))
    )
    with pytest.raises(UnknownNameError, match="unknown export format 'xlsx'. Valid: parquet, csv"):
        export(store, tmp_path / "out", format="xlsx")


def test_a_copy_of_the_rows_is_a_small_store_without_old_versions(store: Store, tmp_path: Path) -> None:
    def version(revision: int) -> dict[str, pa.Table]:
        sweep = store_rows.build(
            "sweeps", 1, {"sweep": "test", "revision": revision, "spec_sha256": f"spec {revision}"}
        )
        planned = store_rows.points(10 * revision)
        spec = pa.array([f"spec {revision}"] * planned.num_rows)
        return {"sweeps": sweep, "points": planned.set_column(1, "spec_sha256", spec)}

    assert SCHEMAS["points"].names[1] == "spec_sha256"
    store.commit(version(1))
    store.commit({**version(2), "trials": store_rows.trials(50), "runs": store_rows.runs(2)})
    store.commit({"trials": store_rows.trials(80, seed=1)})  # 50 of these keys are there already
    store.put_network("a", b"weights")
    copied = copy_rows(store, tmp_path / "copy")
    assert [path.parent.name for path in copied] == ["sweeps", "points", "runs", "trials"]
    copy = Store.open(tmp_path / "copy")
    assert copy.read("sweeps")["revision"].to_pylist() == [2]
    assert set(copy.read("points")["spec_sha256"].to_pylist()) == {"spec 2"}
    assert copy.rows("points") == 20
    assert copy.read("trials").equals(store.read("trials", unique=True))
    assert copy.read("trials").num_rows == 80
    assert verify(copy).ok
    assert not {"networks", "claims"} & {path.name for path in (tmp_path / "copy").iterdir()}
    copy.commit({"trials": store_rows.trials(20, start=80)})  # whoever has it may go on with it
    assert verify(Store.open(tmp_path / "copy")).ok
    with pytest.raises(StoreError, match="is a store already"):
        copy_rows(store, tmp_path / "copy")


def test_a_copy_leaves_alone_what_it_did_not_make(store: Store, tmp_path: Path) -> None:
    store.commit({"trials": store_rows.trials(5)})
    mine = tmp_path / "mine"
    (mine / "claims").mkdir(parents=True)
    insurance = mine / "claims/insurance.txt"
    insurance.write_text("car")
    (mine / "notes.txt").write_text("notes")
    with pytest.raises(InputError, match=r"mine holds other files \(notes.txt\): give a store, or"):
        copy_rows(store, mine)
    assert sorted(path.name for path in mine.iterdir()) == ["claims", "notes.txt"]
    (mine / "notes.txt").unlink()  # what is left has a name that a store's own folder has
    copy_rows(store, mine)
    assert list((mine / "claims").iterdir()) == [insurance]
    assert insurance.read_text() == "car"


def test_the_store_needs_neither_torch_nor_duckdb_nor_pydantic() -> None:
    names = ("torch", "duckdb", "pydantic", "ray", "boto3")
    code = f"import sys, bnsweep.store; print([name for name in {names} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
