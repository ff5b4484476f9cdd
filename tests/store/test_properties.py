"""Any sequence of commits, reads, compactions and reopenings keeps each row once, against a plain dict."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import store_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnsweep.errors import BnsweepError, SchemaError, StoreClaimedError
from bnsweep.store import parts
from bnsweep.store.compact import compact
from bnsweep.store.log import unseal
from bnsweep.store.store import Store
from bnsweep.store.verify import verify, verify_location

KEYS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=12, unique=True)
STEPS = st.one_of(
    st.tuples(st.just("commit"), KEYS, st.integers(0, 2)),
    st.tuples(st.just("compact"), st.integers(1, 20), st.booleans()),
    st.tuples(st.just("reopen")),
)


def some_rows(keys: list[tuple[int, int]], value: int) -> pa.Table:
    """Trials with these (point, trial) keys; `correct` tells which commit a row came from."""
    rows = store_rows.trials(len(keys))
    replaced = {
        "run_id": pa.array(["run"] * len(keys)),
        "point_id": pa.array([f"point-{point}" for point, _ in keys]),
        "trial": pa.array([trial for _, trial in keys], pa.int32()),
        "correct": pa.array([value] * len(keys), pa.int32()),
        "strata_images": pa.array([[1, 2] if point % 2 else None for point, _ in keys], pa.list_(pa.int32())),
    }
    for name, column in replaced.items():
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=10))
def test_the_first_of_each_key_is_kept_whatever_happens(steps: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder, "store"))
        model: dict[tuple[str, int], int] = {}
        for number, step in enumerate(steps):
            if step[0] == "commit":
                store.commit({"trials": some_rows(step[1], number)})  # type: ignore[arg-type]
                for point, trial in step[1]:  # type: ignore[attr-defined]
                    model.setdefault((f"point-{point}", trial), number)
            elif step[0] == "compact":
                compact(store, target_rows=step[1], grace_s=0 if step[2] else 3600)
            else:
                store = Store.open(store.location, writable=True)
            read = store.read("trials", columns=["point_id", "trial", "correct"], unique=True)
            found = zip(
                read["point_id"].to_pylist(), read["trial"].to_pylist(), read["correct"].to_pylist(), strict=True
            )
            assert {(point, trial): correct for point, trial, correct in found} == model
            assert store_rows.key_set(store, "trials") == model.keys()
        compact(store)
        assert store.rows("trials") == len(model)
        assert verify(store).ok


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.tuples(st.one_of(st.none(), st.text(max_size=3)), st.one_of(st.none(), st.integers(-9, 9)))))
def test_row_codes_are_equal_for_equal_rows_and_ordered_as_they_are(
    values: list[tuple[str | None, int | None]],
) -> None:
    table = pa.table(
        {"a": pa.array([a for a, _ in values], pa.string()), "b": pa.array([b for _, b in values], pa.int64())}
    )
    codes = parts.row_codes(table, ("a", "b"))
    order = pc.sort_indices(table, [("a", "ascending"), ("b", "ascending")]).to_pylist()
    assert [codes[row] for row in order] == sorted(codes)
    assert len(set(codes.tolist())) == len(set(values))
    split = pa.concat_tables([table.slice(0, len(values) // 2), table.slice(len(values) // 2)])
    encoded = pa.table({"a": split["a"].dictionary_encode(), "b": split["b"]})
    assert parts.row_codes(encoded, ("a", "b")).tolist() == codes.tolist()


def test_row_codes_of_very_many_combinations() -> None:
    wide = pa.table({str(number): pa.array(range(5_000)) for number in range(8)})  # 5000**8 do not fit in 64 bits
    assert parts.row_codes(wide, wide.column_names).tolist() == sorted(
        parts.row_codes(wide, wide.column_names).tolist()
    )
    assert len(set(parts.row_codes(wide, wide.column_names).tolist())) == 5_000


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_in_a_log_give_a_clear_error(data: bytes) -> None:
    with pytest.raises(BnsweepError, match="does not match its digest"):
        unseal("log/000000000001.json", data)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(pick=st.integers(0, 1000), place=st.integers(0, 1 << 20), value=st.binary(max_size=3), cut=st.booleans())
def test_whatever_byte_of_a_store_is_changed_is_found_and_put_right_or_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, pick: int, place: int, value: bytes, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = Store.create(folder)
    sha256 = store.put_network(store_rows.runs(1)["run_id"][0].as_py(), b"weights" * 100)
    for number in (0, 1):
        run = store_rows.runs(1, attempt=1 + number, checkpoint_sha256=sha256)
        store.commit({"trials": store_rows.trials(20, start=20 * number), "runs": run})
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[pick % len(files)]
    data = path.read_bytes()
    place %= len(data)
    changed = data[:place] + value + (b"" if cut else data[place + len(value) :])
    path.write_bytes(changed)
    try:
        assert Store.open(folder).read("trials", unique=True).num_rows <= 40
    except BnsweepError as error:
        assert str(error)
    try:
        found = verify_location(folder)
    except SchemaError:  # the changed byte was the version's, and now it is a newer one
        assert path.name == "bnsweep-store.json"
        return
    matters = path.parent.name in {"trials", "runs", "networks", "log"}
    if changed == data or matters:
        assert found.ok == (changed == data)
    try:
        assert verify_location(folder, repair=True).ok
    except StoreClaimedError:  # the changed byte says that this process, which lives, still holds the claim
        assert path.parent.name == "claims"
        return
    # What was lost is computed again; only a network that was set aside is still to be trained.
    store = Store.open(folder)
    for number in (0, 1):
        store.commit({"trials": store_rows.trials(20, start=20 * number)})
    assert {problem.kind for problem in verify(store, repair=True).problems} <= {"duplicates", "network"}
    assert store.rows("trials") == len(store_rows.key_set(store, "trials")) == 40


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.text(max_size=40))
def test_no_name_leaves_the_store(tmp_path: Path, name: str) -> None:
    store = Store.open_or_create(tmp_path / "inside/store")
    try:
        store.slot(name).write(b"x")
        store.files.write(f"resume/{name}", b"x")
    except BnsweepError:
        pass
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and "inside/store" not in str(path)]
    assert outside == []
