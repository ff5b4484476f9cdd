"""Why a named question has no rows, as far as that is cheap to say: a name that is nobody's is an error of who asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bnsweep.analysis.queries import Parameter, Query, find_query
from bnsweep.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from bnsweep.analysis.database import Database

__all__ = ["about", "refuse_misnamed", "why_empty"]

NAMES = {  # parameters that name something: what, and where the names there are stand
    "dataset": ("data set", "dataset", "planned_point"),
    "model": ("network", "model", "planned_point"),
    "run_id": ("training run", "run_id", "planned_point"),
    "targets": ("targets", "targets", "planned_point"),
    "bn_treatment": ("treatment of BN", "bn_treatment", "planned_point"),
    "table": ("table or view", "table_name", "described"),
}
OF_QUERY = {
    "paired": dict.fromkeys("ab", ("placement", "placement", "planned_point")),
    "paired_sweeps": dict.fromkeys("ab", ("sweep", "sweep", "plan")),
}
MOST_NAMES = 40  # of a list: training runs are thousands


def refuse_misnamed(database: Database, name: str, given: Mapping[str, object]) -> None:
    """Raise InputError for a value that was given to a question without rows and is no name that is there.

    A default that is not there is no mistake of who asks: `why_empty` tells it.
    """
    for parameter, told in _misnamed(database, find_query(name), given):
        if given.get(parameter.name) is not None:
            raise InputError(told)


def why_empty(database: Database, name: str, given: Mapping[str, object]) -> list[str]:
    """Sentences about a named question that was answered with no rows; none where that is no surprise."""
    query = find_query(name)
    if name != "schema" and not database.sql("SELECT 1 FROM planned_point LIMIT 1").rows:
        return [f"no rows: no sweep has planned anything in {database.source} yet"]
    return [f"no rows: {told}" for _, told in _misnamed(database, query, given)] or about(name, given)


def about(name: str, given: Mapping[str, object]) -> list[str]:
    """The same without the rows at hand: what was asked, and what the question is about."""
    query = find_query(name)
    if not query.parameters:
        return []
    asked = ", ".join(f"{each.name} = {_value(each, given)}" for each in query.parameters)
    notes = " ".join(query.notes.partition("\n\n")[0].split())
    header = f"`bnsweep query {name} --show-sql` prints its header"
    return [f"no rows of query {name} for {asked}; {header}" + (f". {notes}" if notes else "")]


def _misnamed(database: Database, query: Query, given: Mapping[str, object]) -> Iterator[tuple[Parameter, str]]:
    """Parameters whose value is no name that is there, or that need one; none where there are no names."""
    needed = OF_QUERY.get(query.name, {})
    names = {**NAMES, **needed}
    for each in query.parameters:
        value = given.get(each.name, each.value)
        if each.name not in names or (value is None and each.name not in needed):
            continue
        kind, column, place = names[each.name]
        rows = database.sql(f"SELECT DISTINCT {column} FROM {place} ORDER BY 1", limit=None).rows  # noqa: S608 (ours)
        there = [str(name) for (name,) in rows]
        if value is None:
            yield each, f"query {query.name} needs --param {each.name}=NAME, a {kind}. Valid: {', '.join(there)}"
        elif there and value not in there:
            few = len(there) <= MOST_NAMES
            instead = "" if few else f"Valid: the {len(there):,} that `bnsweep query runs` lists"
            yield each, f"parameter {each.name}: {UnknownNameError(kind, str(value), there if few else (), instead)}"


def _value(parameter: Parameter, given: Mapping[str, object]) -> str:
    """As in a header: NULL, 'text' or a number."""
    if parameter.name not in given:
        return parameter.default
    value = given[parameter.name]
    return f"'{value}'" if parameter.type == "VARCHAR" else str(value)
