"""Is this spec one that a stranger may submit, and what would it do?

Reading is quick and happens here. Planning builds networks, so a process of its own does it (sweep/planner.py), which
is started when it is first needed, killed when it takes too long, and ended after a while without work.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from bnsweep.errors import Problem, SpecError
from bnsweep.experiment.files import LARGEST_BYTES
from bnsweep.experiment.reading import parse_spec, with_lines
from bnsweep.experiment.remnant import remnant
from bnsweep.experiment.search import SearchSpec
from bnsweep.experiment.spec import Spec

__all__ = ["Planner", "read_submitted"]

PLAN_S = 60.0  # for one plan, start of the process included
IDLE_S = 300.0
PROBLEM_S = 5.0  # how long a problem is known: for the page that asks for it twice


def read_submitted(
    text: str,
    *,
    folders: Sequence[Path] = (),
    most_bytes: int = LARGEST_BYTES,
    most_runs: int | None = None,
    planner: Planner | None = None,
) -> Spec:
    """The spec of a submission, a sweep's or a search's.

    Args:
        text: YAML.
        folders: where images on this machine may lie.
        most_bytes: of the text.
        most_runs: training runs of a search; those of a sweep are known once it is planned.
        planner: with it, a text whose form is wrong is planned as far as it goes, to tell everything that is wrong.

    Raises:
        SpecError: every problem at its line.
    """
    size = len(text.encode(errors="replace"))
    if size > most_bytes:  # reading YAML takes a second per 100 kB, and others wait meanwhile
        raise SpecError(
            [Problem("", f"a submitted sweep file has at most {most_bytes:,} bytes, but this has {size:,}")]
        )
    try:
        spec = parse_spec(text)
    except SpecError as error:
        if planner is None:
            raise
        raise SpecError(_with_more(text, error.problems, folders, planner), source=error.source) from None
    problems = _refused(spec, folders)
    if isinstance(spec, SearchSpec) and most_runs is not None:
        runs = spec.search.trainings * len(spec.models) * len(spec.data)
        if runs > most_runs:
            rule = f"a submitted search has at most {most_runs:,} training runs, but this has {runs:,}"
            problems.append(Problem("search.trainings", rule))
    if problems:
        raise with_lines(SpecError(problems), text, source="the spec")
    return spec


def _refused(spec: Spec, folders: Sequence[Path]) -> list[Problem]:
    """What would run a stranger's code, or read where a stranger may not."""
    problems = [
        Problem(f"models.{index}.name", f"{model.name!r} runs code of your own, which only the command line may do")
        for index, model in enumerate(spec.models)
        if model.name.startswith("import:")
    ]
    for entry in spec.files:
        if not _inside(entry.path, folders):
            allowed = ", ".join(entry.at(f"{folder}/...") for folder in folders) or "none (bnsweep serve --data-dir)"
            rule = f"{str(entry)!r} lies outside the folders that are open to submissions: {allowed}"
            problems.append(Problem(entry.where, rule))
    return problems


def _with_more(text: str, found: Sequence[Problem], folders: Sequence[Path], planner: Planner) -> list[Problem]:
    """These problems of a text's form and those of what is left without them, in the order of the file."""
    left = remnant(text)
    more: Sequence[Problem] = left.located(_refused(left.spec, folders)) if left else []
    if left and not more:  # else planning would look at what may not be looked at
        try:
            planner.plan(text)
        except SpecError as error:
            more = error.problems
    return sorted(dict.fromkeys([*found, *more]), key=lambda problem: (problem.line or 0, problem.where))


def _inside(path: str, folders: Sequence[Path]) -> bool:
    """Whether a path lies in one of the folders, links followed."""
    if not path.startswith("/") or "\0" in path:
        return False
    real = Path(path).resolve()
    return any(real.is_relative_to(folder.resolve()) for folder in folders)


class Planner:
    """Asks the planning process, one question at a time."""

    def __init__(self, location: str, data_root: Path) -> None:
        self._command = [sys.executable, "-m", "bnsweep.sweep.planner", location, str(data_root)]
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._used = monotonic()
        self._last: tuple[str, dict[str, Any], float] | None = None

    def plan(self, text: str) -> dict[str, Any]:
        """The plan as `Preview.to_dict`. Raises SpecError, also for a spec that takes too long to plan."""
        with self._lock:
            known = self._last if self._last and self._last[0] == text else None
            answer = known[1] if known and monotonic() - known[2] < PROBLEM_S else self._ask(text)
            # A plan depends on what the store holds, and a problem may be gone soon.
            self._last = (text, answer, monotonic()) if "problems" in answer else None
        if "problems" in answer:
            raise SpecError([Problem(p["where"], p["message"], p["line"]) for p in answer["problems"]])
        plan: dict[str, Any] = answer["plan"]
        return plan

    def sites(self, text: str, run_id: str) -> list[str]:
        """Names of the BN sites of a run's network, in forward order; none if they cannot be found out."""
        with self._lock:
            try:
                found: list[str] = self._ask(text, run_id).get("sites", [])
            except SpecError:
                return []
        return found

    def _ask(self, text: str, run: str = "") -> dict[str, Any]:
        process = self._running()
        self._used = monotonic()
        timer = threading.Timer(PLAN_S, process.kill)
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"spec": text, "run": run}) + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
        except (OSError, ValueError):
            self.close()
            why = f"this sweep cannot be planned within {PLAN_S:.0f} s and the memory there is"
            raise SpecError([Problem("", f"{why}: ask for fewer networks, placements or etas")]) from None
        finally:
            timer.cancel()
        return answer

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(  # noqa: S603 (our own module)
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        return self._process

    def tidy(self) -> None:
        """End the process if nobody has asked for a while."""
        if self._process is not None and monotonic() - self._used > IDLE_S and self._lock.acquire(blocking=False):
            try:
                self.close()
            finally:
                self._lock.release()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=5)
