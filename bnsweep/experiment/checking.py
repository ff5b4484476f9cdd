"""A sweep file's text -> its plan, or every problem of it at once.

What the form says (keys, values) and what only a plan finds out (names, placements, data) come together: where the form
has problems, what is left without them is planned as well, to look for more.
"""

from __future__ import annotations

from collections.abc import Sequence

from bnsweep.errors import Problem, SpecError
from bnsweep.experiment.plan import Catalog, Plan, make_plan
from bnsweep.experiment.reading import parse_spec, with_lines
from bnsweep.experiment.remnant import remnant
from bnsweep.experiment.spec import Spec

__all__ = ["plan_from_text"]


def plan_from_text(text: str, catalog: Catalog, *, source: str = "the spec", images: str | None = None) -> Plan:
    """The plan of a sweep file.

    Args:
        text: YAML.
        catalog: what is known of networks and data.
        source: what to call the file in messages.
        images: where to take images from instead (`Spec.with_source`).

    Raises:
        SpecError: everything that is wrong, with line numbers.
        InputError: `images` for a sweep with several data sets.
    """
    try:
        spec = parse_spec(text, source=source)
    except SpecError as error:
        left = remnant(text)
        more = left.located(_problems(left.spec, catalog, images)) if left else []
        problems = dict.fromkeys([*error.problems, *more])
        raise SpecError(
            sorted(problems, key=lambda problem: (problem.line or 0, problem.where)), source=source
        ) from None
    try:
        return make_plan(_from(spec, images), catalog)
    except SpecError as error:
        raise with_lines(error, text, source=source) from None


def _from(spec: Spec, images: str | None) -> Spec:
    return spec if images is None else spec.with_source(images)


def _problems(spec: Spec, catalog: Catalog, images: str | None) -> Sequence[Problem]:
    try:
        make_plan(_from(spec, images), catalog)
    except SpecError as error:
        return error.problems
    return ()
