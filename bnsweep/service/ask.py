"""Ask: named questions and SQL of one's own, as table, chart, CSV, JSON and Parquet; the address is the question."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams

from bnsweep.analysis.queries import QUERIES
from bnsweep.analysis.queries import Query as Question
from bnsweep.analysis.result import Result
from bnsweep.errors import QueryError
from bnsweep.service.answers import Answer, NotFoundError, for_programs, rows_for, showing, status_of
from bnsweep.service.auth import User
from bnsweep.service.hub import Hub
from bnsweep.service.rows import Snapshot
from bnsweep.store.schema import SCHEMAS, describe

__all__ = ["Ask"]

LONGEST_SQL = 20_000  # characters: an address must hold it
SHOWN_ROWS = 300  # on a page; the files have all
OURS = frozenset({"sql", "sweep", "view", "x", "y", "colour"})

Sweep = Annotated[str, Query(description="only this sweep", max_length=200)]
View = Annotated[str, Query(description="on the page: table or chart", pattern="^(table|chart)$")]
Axis = Annotated[str, Query(description="column of the page's chart", max_length=200)]


class Ask:
    """The console."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def sql(
        self,
        request: Request,
        sql: Annotated[str, Query(description="one SELECT over the tables and views", max_length=LONGEST_SQL)] = "",
        view: View = "table",
        x: Axis = "",
        y: Axis = "",
        colour: Axis = "",
    ) -> Answer:
        """One SELECT of the user's own over all rows; without one, the named questions and the schema."""
        if not sql.strip():
            return Answer("ask.html", self._contents(), None, {} if for_programs(request) else self._page(sql=""))
        user: User = request.state.user
        await run_in_threadpool(self._hub.audit.add, user.name, "question", sql=sql)
        await self._newest()  # a service that has just started has none yet, and turns are not for waiting for it
        try:
            result = await self._hub.console.ask(self._newest, sql, gone=request.is_disconnected)
            if for_programs(request):
                return Answer("ask.html", {"sql": sql}, result)
            chart = await run_in_threadpool(self._chart, result, view, (x, y, colour))
        except QueryError as error:
            if for_programs(request):
                raise
            return Answer("ask.html", {}, None, self._page(sql=sql, error=str(error)), status=status_of(error))
        return Answer("ask.html", {"sql": sql}, result, self._page(sql=sql, result=result, view=view, **chart))

    def named(
        self,
        request: Request,
        query: str,
        sweep: Sweep = "",
        view: View = "table",
        x: Axis = "",
        y: Axis = "",
        colour: Axis = "",
    ) -> Answer:
        """A named question; its parameters are those of the query, see /ask.json."""
        question = QUERIES.get(query)
        if question is None:
            raise NotFoundError(f"there is no question {query!r}; there are: {', '.join(QUERIES)}")
        given = self._given(request.query_params)
        self._hub.audit.add(request.state.user.name, "question", query=query, sweep=sweep, **{"with": given})
        result = rows_for(request, self._hub.rows)(
            "ask", query, sweep=sweep or None, parameters=tuple(sorted(given.items())),
            limit=self._hub.settings.count("sql_rows"), seconds=self._hub.settings["sql_seconds"],
        )  # fmt: skip
        data = {"query": query, "question": question.question, "sweep": sweep, "parameters": given, "sql": question.sql}
        if for_programs(request):
            return Answer("ask.html", data, result, name=query)
        page = self._page(
            sql=question.sql, question=question, given=given, sweep=sweep, result=result, view=view,
            **self._chart(result, view, (x, y, colour)),
        )  # fmt: skip
        return Answer("ask.html", data, result, page, name=query)

    async def _newest(self) -> Snapshot:
        return await run_in_threadpool(lambda: self._hub.rows.snapshot)

    def _given(self, parameters: QueryParams) -> dict[str, str]:
        """Values for the question's own parameters; an empty field of the form is none."""
        return {name: value for name, value in parameters.items() if name not in OURS and value != ""}

    def _contents(self) -> dict[str, Any]:
        return {
            "queries": [_described(question) for question in QUERIES.values()],
            "tables": [
                {
                    "table": table,
                    "columns": [
                        {"name": name, "type": kind, "unit": unit, "meaning": meaning}
                        for name, kind, unit, meaning in describe(table)
                    ],
                }
                for table in SCHEMAS
            ],
        }

    def _page(self, **given: Any) -> dict[str, Any]:
        """What the template needs, with nothing where there is nothing."""
        empty: dict[str, Any] = {
            "sql": "", "question": None, "given": {}, "sweep": "", "result": None, "error": "", "view": "table",
            "x": "", "y": "", "colour": "", "figures": [], "specs": "",
        }  # fmt: skip
        sweeps = sorted(self._hub.overview.look().begun)
        contents = self._contents()
        return {**contents, "sweeps": sweeps, "shown": SHOWN_ROWS, **empty, **given}

    def _chart(self, result: Result, view: str, axes: tuple[str, str, str]) -> dict[str, Any]:
        x, y, colour = axes
        if view != "chart" or not len(result):
            return {"x": x, "y": y, "colour": colour}
        with showing():
            return self._drawn(result, x, y, colour)

    def _drawn(self, result: Result, x: str, y: str, colour: str) -> dict[str, Any]:
        """The chart's figures, with columns for the axes that were not asked for."""
        names = [column.name for column in result.columns]
        numbers = [n for n in names if _is_number(result, n)]
        if not y:
            colour = colour or ("placement" if "placement" in names else "")
            y = next((n for n in numbers if n.endswith("_pct")), numbers[-1] if numbers else names[-1])
        x = x or next((n for n in ("eta", "epoch", "bn_kept", *names) if n in names and n != y), names[0])
        figures, specs = self._hub.rows.now("result_chart", result, x=x, y=y, colour=colour or None)
        return {"x": x, "y": y, "colour": colour, "figures": figures, "specs": specs}


def _is_number(result: Result, name: str) -> bool:
    return any(isinstance(value, (int, float)) and not isinstance(value, bool) for value in result.column(name)[:50])


def _described(question: Question) -> dict[str, Any]:
    return {
        "query": question.name,
        "question": question.question,
        "parameters": [
            {"name": p.name, "type": p.type, "default": p.default, "meaning": p.meaning} for p in question.parameters
        ],
        "columns": [{"name": c.name, "unit": c.unit, "meaning": c.meaning} for c in question.columns],
    }
