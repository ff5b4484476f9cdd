"""Where does the one driver saturate? A simulation of up to 10,000 nodes, fed by what was measured here.

    python -m tests.bench.simulate_nodes [--block-ms MS] [--row-us US] [--commit-ms MS] [--chart docs/scaling.png]

Events: a slot ends a block and takes the next one from the two that wait for it; the driver takes outcomes in the order
in which they came, spends `block-ms` on each (collect, decide, submit the next), and once a second makes a commit
(`commit-ms`, and `row-us` for each row). A slot stands idle when its two waiting blocks are used up before the driver
has come round. Block lengths scatter by 20 %. Ray itself is taken to keep up; its own limits are stated in
docs/scaling.md and not simulated.
"""

from __future__ import annotations

import argparse
import heapq
import json
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from bnsweep.sweep.driver import block_seconds

NODES = (1, 10, 30, 100, 300, 1000, 3000, 10_000)
SLOTS_PER_NODE = 16
WAITING = 2  # blocks per slot beyond the one at work; the engine lets 5 wait, which saturates no sooner and no later
SCATTER = 0.2
# Block lengths before anything is counted, and in all. A driver that keeps up with all but 6 % of the slots uses up the
# blocks sent ahead in 31.
WARM_UP, ROUNDS = 50, 60
ENDED, ARRIVED = 0, 1


@dataclass(frozen=True)
class Costs:
    """Seconds of the driver."""

    block_s: float  # per block
    row_s: float  # per row committed
    commit_s: float  # per commit


@dataclass(frozen=True)
class Way:
    """A way to run: how long blocks are, how many drivers share the nodes; a trial takes a second."""

    fixed_s: float | None = None  # None: as long as the driver asks for
    drivers: int = 1

    @property
    def label(self) -> str:
        length = "as long as it asks" if self.fixed_s is None else f"of {self.fixed_s:g} s"
        return f"{self.drivers} driver{'s' if self.drivers > 1 else ''}, blocks {length}"

    def block_s(self, slots: int) -> float:
        return block_seconds(slots) if self.fixed_s is None else self.fixed_s


WAYS = (Way(10), Way(60), Way(), Way(60, drivers=16))


class Simulation:
    """One driver and its slots, event by event."""

    def __init__(self, slots: int, block_s: float, costs: Costs) -> None:
        rng = np.random.default_rng(slots)
        self.slots, self.block_s, self.costs = slots, block_s, costs
        self.begin, self.end = WARM_UP * block_s, ROUNDS * block_s  # what is counted
        self.busy = 0.0
        self._lengths = cycle((block_s * rng.lognormal(-(SCATTER**2) / 2, SCATTER, 4 * slots + 1000)).tolist())
        self._waiting = [WAITING] * slots
        self._idle = [False] * slots
        self._events: list[tuple[float, int, int]] = []
        self._driver_free, self._next_commit, self._rows = 0.0, 1.0, 0.0
        for slot, phase in enumerate(rng.random(slots).tolist()):
            self._work(slot, -phase * block_s)  # as if it had been running for a while

    def utilisation(self) -> float:
        """Share of the slots' time that goes into blocks."""
        heapq.heapify(self._events)
        while self._events and self._events[0][0] < self.end:
            now, kind, slot = heapq.heappop(self._events)
            if kind == ENDED:
                self._ended(slot, now)
            else:
                self._waiting[slot] += 1
                if self._idle[slot]:
                    self._next(slot, now)
        return self.busy / (self.slots * (self.end - self.begin))

    def _ended(self, slot: int, now: float) -> None:
        heapq.heappush(self._events, (self._answered(now), ARRIVED, slot))
        if self._waiting[slot]:
            self._next(slot, now)
        else:
            self._idle[slot] = True

    def _answered(self, now: float) -> float:
        """When the driver has taken what came back and sent another block."""
        begin = max(now, self._driver_free)
        if begin >= self._next_commit:
            begin += self.costs.commit_s + self.costs.row_s * self._rows
            self._next_commit, self._rows = begin + 1.0, 0.0
        self._rows += self.block_s  # one row per second of work
        self._driver_free = begin + self.costs.block_s
        return self._driver_free

    def _next(self, slot: int, now: float) -> None:
        self._waiting[slot] -= 1
        self._idle[slot] = False
        self._work(slot, now, push=True)

    def _work(self, slot: int, now: float, *, push: bool = False) -> None:
        end = now + next(self._lengths)
        self.busy += max(0.0, min(end, self.end) - max(now, self.begin))
        if push:
            heapq.heappush(self._events, (end, ENDED, slot))
        else:
            self._events.append((max(end, 0.0), ENDED, slot))


def simulate(costs: Costs) -> list[dict[str, Any]]:
    """Rows of way, nodes, utilisation in %."""
    rows = []
    for way in WAYS:
        for nodes in NODES:
            slots = max(1, nodes * SLOTS_PER_NODE // way.drivers)  # drivers share nothing: one tells all
            share = Simulation(slots, way.block_s(slots), costs).utilisation()
            rows.append({"way": way.label, "nodes": nodes, "busy_pct": 100 * share})
            print(f"{way.label:<34}{nodes:>8,} nodes {100 * share:>6.1f} % busy", flush=True)
    return rows


def saturation(way: Way, costs: Costs) -> float:
    """Nodes at which drivers have no time left, by arithmetic: the simulation must bend there."""

    def asked(nodes: float) -> float:
        """Share of a driver's time."""
        slots = nodes * SLOTS_PER_NODE / way.drivers
        length = way.block_s(round(slots))
        return costs.commit_s + slots * (costs.block_s / length + costs.row_s)

    low, high = 0.0, 1e7
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (low, middle) if asked(middle) > 1 else (middle, high)
    return high


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The chart of docs/scaling.md."""
    import altair as alt

    from bnsweep.analysis.theme import LIGHT, PRINT_FONT, chart_config

    order = [way.label for way in WAYS]
    legend = alt.Legend(labelLimit=300, orient="bottom", columns=2, direction="horizontal")
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "nodes:Q",
            title=f"nodes of {SLOTS_PER_NODE} slots",
            scale=alt.Scale(type="log"),
            axis=alt.Axis(values=list(NODES), format=",d"),
        ),
        y=alt.Y("busy_pct:Q", title="slots busy with blocks, %", scale=alt.Scale(domain=[0, 100])),
        color=alt.Color("way:N", title=None, scale=alt.Scale(domain=order), legend=legend),
        shape=alt.Shape("way:N", title=None, scale=alt.Scale(domain=order), legend=legend),
    )
    chart = alt.layer(base.mark_line(), base.mark_point(filled=True, size=50)).properties(width=460, height=260)
    config = {**chart_config(LIGHT), "font": PRINT_FONT, "background": "white"}
    chart.configure(**config).save(str(path), scale_factor=1.5)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.simulate_nodes", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--block-ms", type=float, required=True, help="the driver's time per block (bench blocks)")
    parser.add_argument("--row-us", type=float, required=True, help="the driver's time per row (bench store)")
    parser.add_argument("--commit-ms", type=float, required=True, help="the driver's time per commit")
    parser.add_argument("--rows", type=Path, help="a JSON file to keep what was simulated, or to draw it again")
    parser.add_argument("--chart", type=Path, help="where to draw the chart, e.g. docs/scaling.png")
    given = parser.parse_args()
    costs = Costs(given.block_ms / 1e3, given.row_us / 1e6, given.commit_ms / 1e3)
    for way in WAYS:
        print(f"{way.label:<34}saturates at {saturation(way, costs):,.0f} nodes", flush=True)
    rows = json.loads(given.rows.read_text()) if given.rows and given.rows.exists() else simulate(costs)
    if given.rows:
        given.rows.write_text(json.dumps(rows))
    if given.chart:
        draw(rows, given.chart)


if __name__ == "__main__":
    main()
