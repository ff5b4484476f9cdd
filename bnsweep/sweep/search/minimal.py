"""The fewest BN layers with which a network converges: "trial and error" in the paper, a bisection here.

More BN layers make training easier, so the counts that converge are taken to be those from some number on. That number
is bracketed by doubling (0, 1, 2, 4, ...) and then bisected; at each count a few placements are tried until one
converges with every training seed. It takes about `places * log2(answer)` trainings, and one per count is never
needed. Each training is a row, so what failed, and how, can be looked up; what was only assumed is said.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from bnsweep.errors import InputError
from bnsweep.experiment.identity import seed_of
from bnsweep.experiment.search import Subject
from bnsweep.experiment.vocabulary import NETWORK_ENDS
from bnsweep.sweep.search.objectives import Verdict
from bnsweep.sweep.search.study import Proposal

__all__ = ["MinimalStudy", "places"]

Step = tuple[str, int, str]  # mask, training seed, what it is to find out


class _UnknownError(Exception):
    """Nothing says whether so many layers converge: what was tried came to grief in another way."""


@dataclass(slots=True)
class Evidence:
    """What is known of one count of BN layers."""

    failed: list[str] = field(default_factory=list)  # masks that do not converge
    converged: str | None = None


class MinimalStudy:
    """Bisects the number of BN layers of one network."""

    def __init__(self, subject: Subject) -> None:
        _check(subject)
        self.subject = subject
        self.asked: list[Proposal] = []
        self.verdicts: dict[str, Verdict] = {}
        self.counts: dict[int, Evidence] = {}
        self.answer: int | None = None
        self.unclear = ""  # why there is no answer yet
        self._steps = self._bisect()
        self._next: list[Step] | None = next(self._steps)

    @property
    def over(self) -> bool:
        """Whether the answer is found, or there is none."""
        return self._next is None

    def batch(self) -> list[Proposal]:
        """The next placements of the count in question."""
        proposals = []
        for mask, seed, why in self._next or ():
            proposal = Proposal("minimal", len(self.asked) + 1, self.subject.run(mask, seed), "minimal", why)
            self.asked.append(proposal)
            proposals.append(proposal)
        return proposals

    def tell(self, verdicts: Mapping[str, Verdict]) -> None:
        """How they ended."""
        self.verdicts |= verdicts
        try:
            self._next = next(self._steps)
        except StopIteration:
            self._next = None
        except _UnknownError as error:
            self._next, self.unclear = None, str(error)

    def lines(self) -> list[str]:
        """The answer and what it rests on."""
        title = self.subject.title
        if self.answer is None and self.unclear:
            return [f"{title}: {self.unclear}"]
        if self.answer is None:
            return [f"{title}: not even BN at every site converges; train longer, or at a lower rate"]
        lines = [f"{title}: the fewest BN layers that converge are {self.answer} of {self.subject.sites}"]
        for count, evidence in sorted(self.counts.items()):
            parts = [f"{len(evidence.failed)} failed"] if evidence.failed else []
            parts += [f"{evidence.converged} converged"] if evidence.converged else []
            lines.append(f"  {count} kept: {', '.join(parts)}")
        if self.unclear:
            lines.append(f"  {self.unclear}")
        untried = [count for count in range(self.answer) if count not in self.counts]
        if untried:
            lines.append(f"  not tried, taken to fail since more layers fail: {', '.join(map(str, untried))}")
        odd = [count for count, e in self.counts.items() if count > self.answer and e.converged is None]
        if odd:
            lines.append(
                f"  more layers did not converge at {', '.join(map(str, odd))}: the counts are not in order here"
            )
        trainings = f"  {len(self.asked)} trainings"
        saved = len(self.asked) < self.subject.sites + 1
        return [*lines, f"{trainings}; one per count would be {self.subject.sites + 1}" if saved else trainings]

    def _bisect(self) -> Generator[list[Step], None, None]:
        sites = self.subject.sites
        if not (yield from self._converges(sites)):
            return
        fails, works = -1, sites
        for count in _doubling(sites):
            if (yield from self._converges(count)):
                works = count
                break
            fails = count
        while works - fails > 1:
            middle = (fails + works) // 2
            if (yield from self._converges(middle)):
                works = middle
            else:
                fails = middle
        self.answer = works
        if works + 1 not in self.counts and works + 1 < sites:
            yield from self._converges(works + 1)  # is the order of counts what it was taken for?

    def _converges(self, count: int) -> Generator[list[Step], None, bool]:
        """Whether some placement of so many layers converges with every seed."""
        evidence = self.counts.setdefault(count, Evidence())
        size = self.subject.spec.search.batch
        options = list(places(self.subject, count, near=self._smallest()))
        unknown = 0
        for start in range(0, len(options), size):
            alive = dict(options[start : start + size])
            for seed in self.subject.spec.train_seeds:
                yield [(mask, seed, f"do {count} layers converge? {label}") for mask, label in alive.items()]
                good = {mask: self._good(mask, seed) for mask in alive}
                evidence.failed += [mask for mask in alive if good[mask] is False]
                unknown += list(good.values()).count(None)
                alive = {mask: label for mask, label in alive.items() if good[mask]}
                if not alive:
                    break
            if alive:
                evidence.converged = next(iter(alive))
                return True
        if unknown:
            raise _UnknownError(
                f"whether {count} BN layers converge is not known: {unknown} of the trainings that were to tell failed "
                "for another reason (bnsweep query failures); mend it, and run this again with --retry-failed"
            )
        return False

    def _good(self, mask: str, seed: int) -> bool | None:
        """Whether a run converged; None if it failed for another reason than its training."""
        verdict = self.verdicts[self.subject.run(mask, seed).run_id]
        if verdict.status == "failed":
            return None
        if verdict.status not in NETWORK_ENDS or verdict.accuracy is None:
            return False
        share = self.subject.spec.search.minimal.accuracy_share
        everywhere = self.verdicts[self.subject.run("1" * self.subject.sites, seed).run_id].accuracy
        return everywhere is None or verdict.accuracy >= share * everywhere

    def _smallest(self) -> str | None:
        """The smallest placement that converged: parts of it are good places to look."""
        found = [count for count, evidence in self.counts.items() if evidence.converged]
        return self.counts[min(found)].converged if found else None


def places(subject: Subject, count: int, *, near: str | None = None) -> Iterator[tuple[str, str]]:
    """(mask, label) of placements with so many layers, the likeliest to converge first.

    The layers next to the input; spread evenly; the first of each stage; part of a placement that converged; next to
    the output; then any.
    """
    sites, most = subject.sites, subject.spec.search.minimal.places
    stages = [site.stage for site in subject.architecture.sites]
    first_of_stage = sorted(range(sites), key=lambda i: (stages[:i].count(stages[i]), i))
    within = [i for i in range(sites) if near is not None and near[i] == "1"]
    spread = [round(i * (sites - 1) / max(count - 1, 1)) for i in range(count)]
    options = [
        ("the first", list(range(count))),
        ("spread evenly", spread),
        ("the first of each stage", first_of_stage[:count]),
        ("part of one that converged", within[:count]),
        ("the last", list(range(sites - count, sites))),
    ]
    random = np.random.default_rng(seed_of("places", subject.title, str(count), str(subject.spec.search.seed)))
    options += [("any", [int(i) for i in random.permutation(sites)[:count]]) for _ in range(20 * most)]
    seen: set[str] = set()
    for label, kept in options:
        mask = "".join("1" if i in set(kept) else "0" for i in range(sites))
        if len(set(kept)) == count and mask not in seen and len(seen) < most:
            seen.add(mask)
            yield mask, label


def _doubling(sites: int) -> Iterator[int]:
    """0, 1, 2, 4, ... below the number of sites."""
    yield 0
    count = 1
    while count < sites:
        yield count
        count *= 2


def _check(subject: Subject) -> None:
    """There must be a way to tell that a network does not converge."""
    training = subject.model.training or subject.spec.training
    notices = training.chance_epochs is not None and training.chance_epochs <= training.epochs
    if not notices and not subject.spec.search.minimal.accuracy_share:
        raise InputError(
            "`--minimal` must be able to tell that a network does not converge: `training.chance_epochs <= epochs` "
            f"must hold (they are {training.chance_epochs} and {training.epochs}), or `search.minimal.accuracy_share` "
            "be above 0"
        )
