"""Export: tables as single files that any program reads, with a record of where they come from; or as a small store."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from operator import eq
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import yaml

from bnsweep._version import __version__
from bnsweep.errors import UnknownNameError
from bnsweep.paths import whole
from bnsweep.store import claim, schema
from bnsweep.store import parts as part_files
from bnsweep.store.store import Store

__all__ = ["FORMATS", "copy_rows", "export", "write_files"]

SITE_ORDER = [(key, "ascending") for key in schema.KEYS["sites"]]
NO_LIMIT = np.iinfo(np.int64).max  # of trials of a point that no plan knows


def _as_parquet(name: str, rows: pa.Table) -> bytes:
    return bytes(part_files.encode(name, rows))


def _as_csv(_: str, rows: pa.Table) -> bytes:
    """Lists as JSON, decimals in full, times in ISO 8601, nulls as nothing (an empty string has quotes)."""
    sink = pa.BufferOutputStream()
    pa_csv.write_csv(pa.table({field.name: _csv_column(rows[field.name]) for field in rows.schema}), sink)
    return bytes(sink.getvalue())


def _csv_column(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if pa.types.is_list(column.type):
        texts = (None if value is None else json.dumps(value) for value in column.to_pylist())
        return pa.array(texts, pa.string())
    if pa.types.is_decimal(column.type):
        return column.cast(pa.string())
    return column


FORMATS: dict[str, Callable[[str, pa.Table], bytes]] = {"parquet": _as_parquet, "csv": _as_csv}


def export(
    store: Store,
    directory: str | Path,
    *,
    format: str = "parquet",  # noqa: A002
    tables: Iterable[str] | None = None,
    sweep: str | None = None,
) -> list[Path]:
    """Write TABLE.parquet or TABLE.csv for each table (those with rows unless named), and provenance.json.

    Each key is written once, in the order of keys. Of one sweep: what its newest version plans, whichever sweep asked
    for it first. Raises UnknownNameError, StoreDamagedError, StoreUnwritableError.
    """
    if format not in FORMATS:
        raise UnknownNameError("export format", format, FORMATS)
    names = [name for name in schema.SCHEMAS if store.rows(name)] if tables is None else list(tables)
    for name in names:
        part_files.check_table(name)
    read = partial(store.read, unique=True) if sweep is None else _reader_of(store, sweep)
    contents = (_file(name, read(name), format) for name in names)
    return write_files(store, directory, contents, sweep=sweep)


def copy_rows(store: Store, directory: str | Path, *, sweep: str | None = None) -> list[Path]:
    """Make a store in DIRECTORY with the rows alone, for publication: one part per table, no networks. Its parts.

    Of each sweep the newest version and what that plans; of everything else all rows, each key once. Of one sweep:
    what its newest version plans, and nothing else. Of the folders that files came from only the last name.

    Raises UnknownNameError, StoreError if there is a store already, InputError for a place that is taken,
    StoreDamagedError, StoreUnwritableError.
    """
    if sweep is None:
        newest = _newest_sweeps(store.read("sweeps", unique=True))
        planned = pc.is_in(pc.field("spec_sha256"), newest["spec_sha256"].combine_chunks())
        tables = {"sweeps": newest, "points": store.read("points", unique=True, filter=planned)}
        tables |= {name: store.read(name, unique=True) for name in schema.SCHEMAS if name not in tables}
        tables["trials"] = _planned(tables["trials"], tables["points"])
    else:
        read = _reader_of(store, sweep)
        tables = {name: read(name) for name in schema.SCHEMAS}
    tables["sweeps"] = _without_folders(tables["sweeps"])
    target = Store.create(directory)
    added = target.commit(tables)
    claim.forget(target.files)  # who wrote on which machine; no copy needs it to be read or written
    return [Path(directory, part.path) for part in added]


def _without_folders(sweeps: pa.Table) -> pa.Table:
    """Specs that tell nobody's folders: rows are known by digests of images, not by where these were."""
    rows = sweeps.to_pylist()
    for row in rows:
        spec = json.loads(row["spec"] or "{}")
        told = {source: _without_folder(source) for source in _files(spec)}
        if all(map(eq, told, told.values())):
            continue
        for data in spec["data"]:
            data["source"] = told[data["source"]]
        for model in spec["models"]:
            if "weights" in model:
                model["weights"] = [told[path] for path in model["weights"]]
        row["spec"] = json.dumps(spec, sort_keys=True, separators=(",", ":"))
        for source in sorted(told, key=len, reverse=True):  # one may begin another
            row["spec_yaml"] = row["spec_yaml"].replace(source, told[source])
        if _names_a_folder(row["spec_yaml"]):  # in quotes, say, with escapes
            row["spec_yaml"] = row["spec"]  # which is YAML as well
    return pa.Table.from_pylist(rows, schema=sweeps.schema)


def _without_folder(source: str) -> str:
    kind = next((kind for kind in ("parquet:", "folder:") if source.startswith(kind)), "")
    return kind + PurePosixPath(source.removeprefix(kind)).name


def _files(spec: Mapping[str, Any]) -> list[str]:
    """What names files in a spec, as it is kept or as it was written."""
    sources = [data if isinstance(data, str) else data["source"] for data in _listed(spec.get("data", ()))]
    models = [model for model in _listed(spec.get("models", ())) if not isinstance(model, str)]
    return [*sources, *(path for model in models for path in _listed(model.get("weights") or ()))]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _names_a_folder(text: str) -> bool:
    sources = _files(yaml.safe_load(text))
    return sources != [_without_folder(source) for source in sources]


def _reader_of(store: Store, sweep: str) -> Callable[[str], pa.Table]:
    """What reads a table's rows that one sweep's newest version plans. Raises UnknownNameError.

    By points and runs: the column `sweep` of trials and runs names who asked for a row first, and sweeps share rows.
    """
    newest = _newest_sweeps(store.read("sweeps", unique=True))
    known = newest["sweep"].to_pylist()
    if sweep not in known:
        raise UnknownNameError("sweep", sweep, sorted(known))
    own = newest.slice(known.index(sweep), 1)
    version = (pc.field("sweep") == sweep) & (pc.field("spec_sha256") == own["spec_sha256"][0])
    points = store.read("points", unique=True, filter=version)
    of_points, of_runs = (pc.is_in(pc.field(key), points[key].unique()) for key in ("point_id", "run_id"))
    networks = points.group_by(["dataset", "model"]).aggregate([])
    filters = {
        "proposals": version,
        "trials": of_points,
        "failures": of_points | (pc.field("point_id").is_null() & of_runs),
        "sites": None,
    }

    def read(table: str) -> pa.Table:
        if table in ("sweeps", "points"):
            return own if table == "sweeps" else points
        rows = store.read(table, unique=True, filter=filters.get(table, of_runs))
        if table == "sites":
            return rows.join(networks, ["dataset", "model"], join_type="left semi").sort_by(SITE_ORDER)
        return _planned(rows, points) if table == "trials" else rows

    return read


def _planned(trials: pa.Table, points: pa.Table) -> pa.Table:
    """Without what only older versions asked for: the copy does not know them, and would count it."""
    most = points.group_by("point_id").aggregate([("max_trials", "max")])
    limits = dict(zip(most["point_id"].to_pylist(), most["max_trials_max"].to_pylist(), strict=True))
    ids = trials["point_id"].combine_chunks().dictionary_encode()
    bounds = [limits.get(point_id, NO_LIMIT) for point_id in ids.dictionary.to_pylist()]
    of_rows = np.array(bounds, np.int64)[ids.indices.to_numpy()]
    return trials.filter(pa.array(trials["trial"].to_numpy() < of_rows))


def _newest_sweeps(sweeps: pa.Table) -> pa.Table:
    """The row with the highest revision of each sweep."""
    last: dict[str, int] = {}
    for index, row in enumerate(sweeps.select(["sweep", "revision"]).to_pylist()):
        known = last.setdefault(row["sweep"], index)
        if row["revision"] >= sweeps["revision"][known].as_py():
            last[row["sweep"]] = index
    return sweeps.take(pa.array(sorted(last.values()), pa.int64()))


def _file(name: str, rows: pa.Table, format: str) -> tuple[str, bytes, dict[str, Any]]:  # noqa: A002
    return f"{name}.{format}", FORMATS[format](name, rows), {"rows": rows.num_rows}


def write_files(
    store: Store,
    directory: str | Path,
    contents: Iterable[tuple[str, bytes, Mapping[str, Any]]],
    *,
    sweep: str | None = None,
) -> list[Path]:
    """Write (name, bytes, what else is to be recorded) as files, and provenance.json beside them. All paths.

    Raises StoreUnwritableError.
    """
    folder = Path(directory)
    written, files = [], {}
    for name, data, told in contents:
        written.append(_write(folder / name, data))
        files[name] = {**told, "sha256": hashlib.sha256(data).hexdigest()}
    record = {**provenance(store, sweep), "files": files}
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    return [*written, _write(folder / "provenance.json", text.encode())]


def _write(path: Path, content: bytes) -> Path:
    with whole(path) as place:
        place.write_bytes(content)
    return path


def provenance(store: Store, sweep: str | None = None) -> dict[str, Any]:
    """Where rows come from: the specs (of one sweep, or all), the versions that computed them, each part's digest."""
    told = ("sweep", "spec_sha256", "spec", "spec_yaml", "versions")
    own = None if sweep is None else pc.field("sweep") == sweep
    computed = {row["versions"] for name in ("runs", "trials") for row in _versions(store, name)}
    return {
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "bnsweep": __version__,
        "pyarrow": pa.__version__,
        "python": platform.python_version(),
        "store": {"schema_version": store.version, "log_entry": store.state.seq},
        "computed_with": sorted(version for version in computed if version),
        "specs": store.read("sweeps", columns=told, filter=own).to_pylist(),
        "parts": [
            {"table": part.table, "path": part.path, "rows": part.rows, "sha256": part.sha256} for part in store.parts()
        ],
    }


def _versions(store: Store, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = store.read(name, columns=["versions"]).group_by("versions").aggregate([]).to_pylist()
    return rows
