"""Plans of specs that come from outside, by a process of its own: torch and strangers' specs stay out of the service.

    python -m bnsweep.sweep.planner STORE DATA_ROOT

Standard input is one JSON object per line, {"spec": YAML}, and with a "run" the run's id; standard output one per
question: {"plan": {..}} as `Preview.to_dict` (of a search: at most), {"sites": [names]} of the run's network, or
{"problems": [{"where", "message", "line"}, ..]}. `import:` networks are refused: they run code.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from bnsweep.errors import BnsweepError, Problem, SpecError
from bnsweep.store.store import Store
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.estimate import preview
from bnsweep.sweep.search.expected import plan_of_any

__all__ = ["answer", "main"]


def main(store: str, data_root: str) -> None:
    """Answer questions until standard input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    catalog = LocalCatalog(Path(data_root), allow_import=False)
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(answer(question["spec"], store, catalog, run=question.get("run", ""))), file=out, flush=True)


def answer(text: str, location: str, catalog: LocalCatalog, *, run: str = "") -> dict[str, Any]:
    """The plan of a spec, or what is wrong with it; of one run, the names of its network's BN sites."""
    try:
        store = Store.open_existing(location)
        plan = plan_of_any(text, store, catalog)
        if run:
            chosen = next((each for each in plan.runs if each.run_id == run), None)
            return {"sites": [site.path for site in chosen.architecture.sites] if chosen else []}
        return {"plan": preview(plan, store, cpus=None, data_root=catalog.root).to_dict()}
    except SpecError as error:
        problems = error.problems
    except BnsweepError as error:
        problems = (Problem("", str(error)),)
    except Exception as error:  # noqa: BLE001 (whatever it is, the next question is another)
        traceback.print_exc()  # for the log of whoever asks
        problems = (Problem("", f"this sweep cannot be planned: {type(error).__name__}: {error}"),)
    return {"problems": [problem.to_dict() for problem in problems]}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
