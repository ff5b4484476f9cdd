"""How pages are made: templates, and how numbers, times and addresses read in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from itertools import takewhile
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request

from bnsweep._version import __version__
from bnsweep.analysis.queries import Column
from bnsweep.analysis.result import ROUNDED, Result
from bnsweep.analysis.wording import close, number
from bnsweep.service.auth import Role, User, form_proof

__all__ = ["ENDINGS", "folded", "link", "page", "static_file"]

ENDINGS = (".json", ".csv", ".parquet", ".html")  # of addresses: the form of the answer; a page's is the last


def page(request: Request, template: str, secret: str, values: Mapping[str, Any]) -> str:
    """A page's HTML; `secret` is what the forms of this browser are proved with."""
    user: User | None = request.state.user
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            user=user,
            runs=user is not None and user.role >= Role.RUNNER,
            admin=user is not None and user.role >= Role.ADMIN,
            proof=form_proof(secret),
            path=request.url.path,
            asked=request.url.query,
            version=__version__,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bnsweep.service"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "close": close, "number": _number, "duration": duration, "ago": _ago, "time": _time, "value": _value,
        "folded": folded,
    }  # fmt: skip
    environment.globals |= {"link": link}
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":"), "allow_nan": False}
    return environment


def link(kind: str, name: str, ending: str = "", **query: object) -> str:
    """The address of a sweep, run or query, whatever characters its name has; a name may end like a form of answer."""
    last = f"{name}.html" if not ending and name.endswith(ENDINGS) else f"{name}{ending}"
    text = f"/{kind}/{quote(last, safe='')}" if name else f"/{kind}{ending}"
    given = {key: value for key, value in query.items() if value not in (None, "")}
    return f"{text}?{urlencode(given)}" if given else text


def duration(seconds: float | None) -> str:
    """A stretch of time in the two units that matter."""
    if seconds is None:
        return "–"  # noqa: RUF001 (a dash for a reader)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@dataclass(frozen=True)
class Folded:
    """A table as a page shows it: what is the same in all rows is said once, before them."""

    shown: list[int]  # numbers of the columns that differ from row to row
    same: list[tuple[Column, Any]]  # the others, with their value
    heads: list[int]  # the first of those shown, which say what a row is about: one column on a phone


def folded(result: Result, skip: Sequence[str] = (), *, fold: bool = True) -> Folded:
    """Which columns of an answer a page has to repeat in every row; those in `skip` are said elsewhere."""
    there = [i for i, column in enumerate(result.columns) if column.name not in skip]
    rows = result.rows
    alike = [i for i in there if fold and len(rows) > 1 and all(row[i] == rows[0][i] for row in rows)]
    if len(alike) == len(there):  # equal rows are shown as they are
        alike = []
    shown = [i for i in there if i not in alike]
    return Folded(shown, [(result.columns[i], rows[0][i]) for i in alike], _heads(result, shown) if fold else shown[:1])


def _heads(result: Result, shown: Sequence[int]) -> list[int]:
    """A question's columns up to eta, which identify a row; where there is no eta, the words that rows begin with."""
    names = [result.columns[i].name for i in shown]
    if "eta" in names:
        return list(shown[: names.index("eta") + 1])
    words = takewhile(lambda i: all(isinstance(row[i], str) for row in result.rows), shown)
    return list(words) or list(shown[:1])


def _moment(value: Any) -> datetime | None:
    if isinstance(value, str) and value:
        value = datetime.fromisoformat(value)
    return value if isinstance(value, datetime) else None


def _time(value: Any) -> str:
    moment = _moment(value)
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if moment else "–"  # noqa: RUF001


def _ago(value: Any) -> str:
    moment = _moment(value)
    if moment is None:
        return "–"  # noqa: RUF001
    return f"{duration(max(0.0, (datetime.now(UTC) - moment).total_seconds()))} ago"


def _number(value: Any, digits: int = 1) -> str:
    return number(value, digits=digits)


def _value(value: Any, unit: str = "") -> str:
    """Any value of an answer, as a cell shows it: what was measured to 3 decimals."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{round(value, 3) + 0.0:.3f}" if unit in ROUNDED else f"{value:.6g}"  # + 0.0: no -0.000
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return str(value)[:500]


@cache
def static_file(name: str) -> bytes | None:
    """A file of ours: the style, the scripts."""
    if name == "bnsweep.css":
        report = (files("bnsweep.analysis") / "templates" / "report.css").read_bytes()
        return report + (files("bnsweep.service") / "static" / "service.css").read_bytes()
    if name == "charts.js":
        return (files("bnsweep.analysis") / "templates" / "report.js").read_bytes()
    known = ("live.js", "new.js", "ask.js", "run.js", "points.js", "figures.js", "icon.svg")
    return (files("bnsweep.service") / "static" / name).read_bytes() if name in known else None
