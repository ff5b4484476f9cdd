"""The published rows, and questions to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bnsweep.analysis.database import Database, open_database
from bnsweep.store.merge import merge
from bnsweep.store.store import Store

__all__ = [
    "APART",
    "DEEP_SGD",
    "DEPTH",
    "ENDS",
    "FULL",
    "HUNDRED",
    "HUNDRED_SGD",
    "LONG",
    "LONG_SGD",
    "MAIN",
    "PUZZLES",
    "RECIPE",
    "ROOT",
    "SGD",
    "SMALL_HUNDRED",
    "STORES",
    "TARGETS",
    "TASK",
    "TASKS",
    "TASK_SGD",
    "VGG",
    "Answers",
    "Row",
    "arms",
    "merged",
]

ROOT = Path(__file__).parent.parent.parent
FULL, MAIN, PUZZLES, DEPTH = "cifar10-full", "cifar10-results", "cifar10-puzzles", "cifar10-depth"
SGD, DEEP_SGD, VGG = "cifar10-sgd", "cifar10-deep-sgd", "cifar10-vgg16"
RECIPE = "cifar10-recipe"
LONG, LONG_SGD = "cifar10-long", "cifar10-long-sgd"
HUNDRED, HUNDRED_SGD, SMALL_HUNDRED = "cifar100-results", "cifar100-sgd", "cifar100-small"
STORES = {
    FULL: "results/cifar10-full",
    SGD: "results/cifar10-sgd",
    RECIPE: "results/cifar10-recipe",
    DEEP_SGD: "results/cifar10-deep-sgd",
    LONG: "results/cifar10-long",
    LONG_SGD: "results/cifar10-long-sgd",
    MAIN: "results/cifar10",
    PUZZLES: "results/cifar10",
    DEPTH: "results/cifar10-depth",
    VGG: "results/cifar10-vgg16",
    HUNDRED: "results/cifar100",
    HUNDRED_SGD: "results/cifar100-sgd",
    SMALL_HUNDRED: "results/cifar100-small",
}
APART = [sweep for sweep in STORES if sweep != RECIPE]  # which has half of its networks from two others
TASK, TASK_SGD = "both", "both-sgd"  # stores of the same sweep on CIFAR-10 and on CIFAR-100
TASKS = {TASK: (MAIN, HUNDRED), TASK_SGD: (SGD, HUNDRED_SGD)}
TARGETS = {
    "weights": "weights",
    "weights+bias": "weights, biases",
    "weights+bias+affine": "weights, biases, gamma, beta",
    "all": "all parameters",
}
ENDS = ("weights", "all")  # the target sets that were scored with each treatment of BN

Row = Mapping[str, Any]


class Answers:
    """Questions to the published rows; each sweep is opened once."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory()
        self._databases: dict[str, Database] = {}
        self._told: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        for database in self._databases.values():
            database.close()
        self._folder.cleanup()

    def database(self, sweep: str) -> Database:
        if sweep not in self._databases:
            self._databases[sweep] = self._both(sweep) if sweep in TASKS else self._one(sweep)
        return self._databases[sweep]

    @staticmethod
    def _one(sweep: str) -> Database:
        return open_database(Store.open(ROOT / STORES[sweep]), sweep=sweep)

    def _both(self, task: str) -> Database:
        store = Store.create(Path(self._folder.name, task))
        for sweep in TASKS[task]:
            merge(store, Store.open(ROOT / STORES[sweep]))
        return open_database(store)

    def __call__(self, query: str, sweep: str = MAIN, **where: Any) -> list[dict[str, Any]]:
        """Rows of a named query in which these columns have these values."""
        if (sweep, query) not in self._told:
            told = self.database(sweep).query(query).to_dicts()
            # DuckDB adds in any order: 28.35 may miss its last bit, and would be written now as 28.3 and now as 28.4.
            exact = [{k: round(v, 9) if isinstance(v, float) else v for k, v in row.items()} for row in told]
            self._told[sweep, query] = exact
        return [row for row in self._told[sweep, query] if all(row[name] == value for name, value in where.items())]


def arms(rows: Iterable[Row], *names: str) -> list[tuple[Any, ...]]:
    """Distinct values of these columns, in the order of the rows."""
    return list(dict.fromkeys(tuple(row[name] for name in names) for row in rows))


def merged(task: str) -> str:
    """The command that makes this store, in Markdown."""
    return f"`bnsweep store merge {' '.join(STORES[sweep] for sweep in TASKS[task])} --store {task}`"
