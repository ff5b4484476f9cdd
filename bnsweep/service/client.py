"""A service from Python.

    from bnsweep.service.client import Client

    with Client("http://host:8000", token=...) as client:
        client.submit(Path("mine.yaml").read_text())
        client.wait("mine")
        rows = client.sql("SELECT model, placement, train_seed, targets, bn_treatment, eta, accuracy FROM point")

Rows are dictionaries.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic, sleep
from typing import Any
from urllib.parse import quote

import httpx
import pyarrow as pa

from bnsweep.analysis.queries import Column
from bnsweep.analysis.result import Result
from bnsweep.errors import BnsweepError, EngineError, InputError, Problem, QueryError, SpecError
from bnsweep.service.jobs import ACTIVE

__all__ = ["Client"]

WHERE_TO_SAY_WHO = ". A token that is valid there is given with --token or in BNSWEEP_TOKEN, in Python as `token`"
ROWS_S = 120.0  # how long the rows of a job that has ended are waited for


class Client:
    """One service. Every method raises what the command line would: SpecError, InputError, EngineError."""

    def __init__(self, server: str, *, token: str | None = None, timeout_s: float = 120.0) -> None:
        if not server.lower().startswith(("http://", "https://")):
            way_out = "" if "://" in server else f": write http://{server}"
            raise InputError(
                f"a service is at an address that begins with http:// or https://, but got {server!r}{way_out}"
            )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(base_url=server.rstrip("/"), headers=headers, timeout=timeout_s)
        except httpx.InvalidURL as error:
            raise InputError(f"a service is at an address like http://host:8000, but got {server!r}: {error}") from None
        except UnicodeEncodeError:
            raise InputError(
                "a token is bnsweep-NUMBER-LETTERS, but the one given has other characters: copy it anew"
            ) from None

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self) -> dict[str, Any]:
        """The store, who writes to it, and every sweep with its state, progress and counts."""
        answer = self._get("/sweeps.json")
        return {key: answer[key] for key in ("store", "writer", "trouble", "sweeps")}

    def sweeps(self) -> list[dict[str, Any]]:
        """Every sweep with its state, progress and counts."""
        found: list[dict[str, Any]] = self.status()["sweeps"]
        return found

    def sweep(self, name: str) -> dict[str, Any]:
        """One sweep: summary, jobs, runs (rows), workers, failures, spec; `rows_age_s`: questions knew all then."""
        return self._get(f"/sweeps/{quote(name, safe='')}.json")

    def check(self, spec: str) -> dict[str, Any]:
        """Problems with line numbers, or the plan: runs, rows, hours. Starts nothing."""
        return self._post("/check.json", {"spec": spec})

    def submit(self, spec: str, *, retry_failed: bool = False, minimal: bool = False) -> dict[str, Any]:
        """Put a sweep file's text into the queue; the job. `minimal`: of a search, as `bnsweep search --minimal`."""
        body = {"spec": spec, "retry_failed": retry_failed, "minimal": minimal}
        job: dict[str, Any] = self._post("/sweeps.json", body)["job"]
        return job

    def retry(self, name: str) -> dict[str, Any]:
        """Do what failed or is missing of a sweep once more; the job."""
        job: dict[str, Any] = self._post(f"/sweeps/{quote(name, safe='')}/retry.json", {})["job"]
        return job

    def cancel(self, name: str) -> dict[str, Any]:
        """Stop a sweep; the job."""
        job: dict[str, Any] = self._post(f"/sweeps/{quote(name, safe='')}/cancel.json", {})["job"]
        return job

    def wait(self, name: str, *, timeout_s: float = float("inf")) -> dict[str, Any]:
        """The newest job of a sweep once it has ended and answers know its rows, which are waited for 120 s at most.

        Raises EngineError if it has not ended within `timeout_s`.
        """
        deadline, ended_at = monotonic() + timeout_s, float("inf")
        while True:
            asked_at = monotonic()
            answer = self.sweep(name)
            if not answer["jobs"]:
                raise InputError(f"sweep {name!r} was run from the command line: there is no job to wait for")
            job: dict[str, Any] = answer["jobs"][0]
            if job["state"] in ACTIVE:
                if monotonic() > deadline:
                    raise EngineError(f"sweep {name!r} is still {job['state']} after {timeout_s:.0f} s")
                ended_at = float("inf")
                sleep(2.0)
                continue
            ended_at = min(ended_at, monotonic())
            if asked_at - answer["rows_age_s"] >= ended_at or asked_at > min(deadline, ended_at + ROWS_S):
                return job
            sleep(0.5)

    def query(self, name: str, /, *, sweep: str = "", **parameters: Any) -> list[dict[str, Any]]:
        """The rows of a named question."""
        return self.result(name=name, sweep=sweep, parameters=parameters).to_dicts()

    def sql(self, text: str) -> list[dict[str, Any]]:
        """The rows of one SELECT."""
        return self.result(text).to_dicts()

    def result(
        self, sql: str = "", *, name: str = "", sweep: str | None = None, parameters: Mapping[str, Any] | None = None
    ) -> Result:
        """An answer with its columns' units: of a named question, or of one SELECT."""
        if not name and not sql.strip():  # to which a service would tell what can be asked
            raise QueryError("a question is one SELECT statement, but got: none")
        path = f"/ask/{quote(name, safe='')}.json" if name else "/ask.json"
        given = {"sql": sql} if sql else {"sweep": sweep or "", **(parameters or {})}
        answer = self._get(path, **given)
        columns = tuple(Column(each["name"], each["unit"], each["meaning"]) for each in answer["columns"])
        values = [pa.array([row[column.name] for row in answer["rows"]]) for column in columns]
        table = pa.table(values, names=[column.name for column in columns])
        return Result(columns, table, answer["truncated"], answer.get("sql", sql))

    def page(self, name: str) -> str:
        """Where people look at a sweep."""
        return f"{str(self._http.base_url).rstrip('/')}/sweeps/{quote(name, safe='')}"

    def text(self, path: str, /, **parameters: Any) -> str:
        """Any answer as it is, e.g. /ask/accuracy.csv."""
        return self._send("GET", path, params=parameters).text

    def _get(self, path: str, /, **parameters: Any) -> dict[str, Any]:
        return self._data(self._send("GET", path, params=parameters))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._data(self._send("POST", path, json=body))

    def _data(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise EngineError(f"{self._http.base_url} is no bnsweep service: it answers with something else than JSON")
        return answer

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise EngineError(f"the service at {self._http.base_url} does not answer: {error}") from None
        if response.is_success:
            return response
        try:
            said = response.json()
        except ValueError:
            raise EngineError(f"{self._http.base_url} is no bnsweep service: it says {response.status_code}") from None
        if said.get("problems"):
            raise SpecError([Problem(p["where"], p["message"], p["line"]) for p in said["problems"]])
        kind: type[BnsweepError] = InputError if response.status_code < 500 else EngineError
        way_out = WHERE_TO_SAY_WHO if response.status_code == 401 else ""
        raise kind(f"{said.get('error', response.text)} ({response.status_code}){way_out}")
