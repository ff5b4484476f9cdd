"""How often noise on BN's running variance must make a network guess, from its variances alone; beside what was seen.

`python -m tests.results.lost_draws STORE` prints the table of docs/results-puzzles.md. It needs the networks, which
results/ does not hold: run the sweep.

A channel with running variance v is lost where v + epsilon + eta * s * z < 0, s the standard deviation of the layer's
running variances and z standard normal; one lost channel makes every output NaN. So a draw is lost with probability
1 - prod over channels of (1 - Phi(-(v + epsilon) / (eta * s))).
"""

from __future__ import annotations

import json
import sys
from collections import Counter

import numpy as np
from safetensors.numpy import load
from scipy.special import log_ndtr

from bnsweep.store.store import Store

ETAS = (0.01, 0.1, 0.2, 0.3, 0.4)


def expected_share(variances: list[np.ndarray], eta: float, epsilon: float) -> float:
    """Probability that a draw is lost."""
    kept = sum(float(log_ndtr((v + epsilon) / (eta * v.std())).sum()) for v in variances if v.std() > 0)
    return abs(float(np.expm1(kept)))


def main(location: str) -> None:
    store = Store.open(location)
    seen: Counter[tuple[str, float]] = Counter()
    lost: Counter[tuple[str, float]] = Counter()
    columns = ["run_id", "targets", "bn_treatment", "eta", "nonfinite", "images"]
    for row in store.read("trials", columns=columns, unique=False).to_pylist():
        if (row["targets"], row["bn_treatment"]) == ("all", "stale"):
            key = row["run_id"], float(row["eta"])
            seen[key] += 1
            lost[key] += row["nonfinite"] == row["images"]
    print(f"| network | seed | least (v + epsilon) / s | {' | '.join(f'{100 * eta:g} %' for eta in ETAS)} |")
    print("|" + " --- |" * (3 + len(ETAS)))
    runs = store.read("runs", unique=True).to_pylist()
    for run in sorted(runs, key=lambda r: (r["model"], r["train_images"], r["learning_rate"], r["train_seed"])):
        if run["bn_kept"] != run["bn_sites"] or not run["checkpoint_sha256"] or not seen[run["run_id"], 0.1]:
            continue
        network = load(store.get_network(run["run_id"], run["checkpoint_sha256"]))
        variances = [v.astype(np.float64) for name, v in network.items() if name.endswith("running_var")]
        epsilon = json.loads(run["recipe"])["bn_epsilon"]
        least = min(float((v + epsilon).min() / v.std()) for v in variances)
        cells = [
            f"{100 * expected_share(variances, eta, epsilon):.1f} / "
            f"{100 * lost[run['run_id'], eta] / seen[run['run_id'], eta]:.1f} of {seen[run['run_id'], eta]}"
            for eta in ETAS
        ]
        print(f"| {run['model']} | {run['train_seed']} | {least:.3f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1])
