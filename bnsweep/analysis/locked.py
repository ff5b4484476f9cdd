"""How DuckDB is locked up and asked, and how a statement that changes something is told from one that only reads.

Nothing but DuckDB is imported: the process of a question (console.py) has to start quickly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

__all__ = ["LOCKED", "SESSION", "asked", "why_not"]

LOCKED = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "python_enable_replacements": "false",
}
# What a connection is told once it is there. A worker process, without a file of its own, counts as a terminal.
SESSION = "SET TimeZone = 'UTC'; SET enable_progress_bar = false"
# Operators of a plan that change something. Data-modifying statements are allowed in WITH, and so is COPY TO.
CHANGES = re.compile(
    r"COPY|INSERT|UPDATE|DELETE|MERGE_INTO|CREATE|DROP|ALTER|ATTACH|EXPORT|LOAD|SET\b|VACUUM", re.IGNORECASE
)
PIVOT = re.compile(r"\bPIVOT", re.IGNORECASE)
NAMED_PIVOT = (
    "a question is one SELECT statement, but this PIVOT makes a type of the values first: list them, as in PIVOT point "
    "ON eta::DOUBLE IN (0.1, 0.2) USING avg(accuracy) GROUP BY model, placement, targets (eta is decimal: without "
    "::DOUBLE, 0.1 is not found)"
)
EXCERPT = re.compile(r"^LINE (\d+)(: .*\n)( *)(?=\^)", re.MULTILINE)  # of an error: the line, and a mark below


def why_not(connection: duckdb.DuckDBPyConnection, sql: str) -> str | None:
    """Why this is not one statement that only reads; None if it is. Runs nothing; duckdb.Error as of `sql` itself."""
    statements = connection.extract_statements(sql)
    if [each.type for each in statements] == [duckdb.StatementType.MULTI] and PIVOT.search(sql):
        return NAMED_PIVOT
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements[:5]) or "none"
        return f"a question is one SELECT statement, but got: {kinds}"
    if statements[0].named_parameters:
        return f"a question has no parameters, but got: {', '.join(sorted(statements[0].named_parameters))}"
    query = statements[0].query  # without what stands before it, such as comments
    try:
        plan = connection.execute(f"EXPLAIN (FORMAT json)\n{query}").fetchall()
    except duckdb.Error as error:
        raise type(error)(_recounted(str(error), sql.partition(query)[0].count("\n") - 1)) from None
    for operator in _operators(json.loads(plan[0][1])):
        if CHANGES.search(operator):
            return f"a question only reads, but this statement has {operator} in its plan"
    return None


def asked(
    connection: duckdb.DuckDBPyConnection, sql: str, values: Mapping[str, object] | None = None
) -> duckdb.DuckDBPyRelation:
    """What a statement gives, each column under a name of its own: two of one table and another are `a` and `a_1`."""
    relation = connection.sql(sql, params=dict(values)) if values else connection.sql(sql)
    return relation.select("*")  # DuckDB numbers the names of what is selected from, not of what is handed over


def _recounted(message: str, lines: int) -> str:
    """An error whose excerpt says a line that is so many further down; the mark stays below what it marks."""

    def moved(found: re.Match[str]) -> str:
        number = str(int(found[1]) + lines)
        return f"LINE {number}{found[2]}{' ' * (len(found[3]) + len(number) - len(found[1]))}"

    return EXCERPT.sub(moved, message)


def _operators(plan: Any) -> Iterator[str]:
    """The names of all operators of a plan in JSON."""
    for node in plan if isinstance(plan, list) else [plan]:
        yield str(node.get("name", ""))
        yield from _operators(node.get("children", []))
