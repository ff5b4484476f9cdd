"""What one call of a driver did, for people: what happened, what diverged or failed and why, how to go on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bnsweep.experiment.chance import is_guess

__all__ = ["Summary", "came_out_different"]

MOST_REASONS = 5  # that are told


@dataclass(slots=True)
class Summary:
    """What one call of `Driver.run` did."""

    runs: int = 0  # planned
    runs_done: int = 0
    runs_read: int = 0  # of these: trained elsewhere, and taken as they are
    runs_failed: int = 0
    trials_done: int = 0
    blocks_failed: int = 0
    errors: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0

    networks_changed: int = 0  # trained again, with another outcome
    failed_before: int = 0  # runs and points that earlier calls had given up, and that this one left alone
    diverged: Counter[str] = field(default_factory=Counter)  # runs by the reason
    diverged_before: Counter[str] = field(default_factory=Counter)
    clean: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # by run: right, test images, classes

    @property
    def runs_diverged(self) -> int:
        """In this call."""
        return self.diverged.total()

    @property
    def failed(self) -> bool:
        """Whether something is given up, now or before; the rest was kept."""
        return bool(self.runs_failed or self.blocks_failed or self.failed_before)

    def lines(self, *, again: str | None) -> list[str]:
        """For people. `again`: the command that goes on; None for those who gave none."""
        lines = [*self._what_was_done(), *self._what_diverged(), *self._what_guesses()]
        if self.networks_changed:
            lines.append(came_out_different(self.networks_changed, "sweep"))
        shown = self.errors[:5]
        lines += [f"failed: {error}" for error in shown]
        if len(self.errors) > len(shown):
            lines.append(f"... and {len(self.errors) - len(shown)} more; see: bnsweep query failures")
        if self.failed and again is not None:
            lines.append(f"to try what failed once more: {again} --retry-failed")
        if self.interrupted and again is not None:
            lines.append(f"interrupted; every finished block is kept. To go on: {again}")
        return lines

    @property
    def _worked(self) -> bool:
        return bool(self.runs_done or self.trials_done or self.runs_failed or self.blocks_failed or self.interrupted)

    def _what_was_done(self) -> list[str]:
        before = self.diverged_before.total()
        if self._worked:
            read = f" and {self.runs_read} read from files" if self.runs_read else ""
            trained = f"{self.runs_done - self.runs_read} networks trained{read}"
            lines = [f"{trained}, {self.trials_done} trials scored in {self.seconds:.1f} s"]
        elif self.failed_before:
            lines = ["nothing more to do"]
        elif before:
            others = "" if before == self.runs else "; the others have landed"
            lines = [f"nothing to do: {before} of {self.runs} runs diverged and have no trials{others}"]
        else:
            lines = ["nothing to do: every row has landed"]
        if self.failed_before:
            lines.append(f"{self.failed_before} runs or points failed before; see: bnsweep query failures")
        return lines

    def _what_diverged(self) -> list[str]:
        lines = []
        before = self.diverged_before.total()
        if before and (self._worked or self.failed_before):
            lines.append(f"{before} networks diverged before and have no trials")
        lines += _told(self.diverged_before)
        if self.diverged:
            lines += [f"{self.runs_diverged} of them diverged and have no trials", *_told(self.diverged)]
        return lines

    def _what_guesses(self) -> list[str]:
        shares = [
            100 * correct / images
            for correct, images, classes in self.clean.values()
            if is_guess(correct, images, classes)
        ]
        if not shares or not (self.runs_done or self.trials_done):
            return []
        low, high = f"{min(shares):.1f}", f"{max(shares):.1f}"
        return [
            f"{len(shares)} of {len(self.clean)} networks are no better than chance on the test images "
            f"({low if low == high else f'{low} to {high}'} % right): normalized accuracy means nothing for them"
        ]


def came_out_different(networks: int, kind: str) -> str:
    """A line on networks that a sweep or a search, by its `kind`, has trained again."""
    return (
        f"{networks} networks that were lost came out different when they were trained again (another processor, other "
        f"versions): rows of the earlier ones are in quarantine/. This {kind}'s trials are made anew; run other sweeps "
        "that share these networks again"
    )


def _told(reasons: Counter[str]) -> list[str]:
    lines = [f"  {count}: {reason}" for reason, count in reasons.most_common(MOST_REASONS)]
    if len(reasons) > MOST_REASONS:
        lines.append("  ... and others; see: bnsweep query convergence")
    return lines
