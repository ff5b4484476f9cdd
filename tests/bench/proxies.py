"""What else could tell good placements from bad ones? Cheap measures of all placements, against full trainings.

    python -m tests.bench.proxies NETWORK SEED PLACEMENTS   -> proxies.parquet; 4 s of one core per placement
    python -m tests.bench.proxy_report NETWORK              rank correlations with intervals, and costs

`measure` takes the placements of every_placement.py, with the same data, recipe and noise draws:

- early: gradient noise (training/probes.py) before the training and after its first epoch.
- folded: a network with BN everywhere is trained once; for each placement BN is folded into the convolutions where the
  placement has none, and the network is scored as it is and after one epoch more at a tenth of the learning rate.
- traces: Hutchinson's estimate of the loss' second derivatives times the noise's variance, half of which is what noise
  costs to second order: of each folded network, and per site from one network with and one without BN everywhere.
- supernet: one network with both kinds of sites, a random placement per batch, as long as six trainings; scored with
  each placement after BN's statistics have been taken anew.

Times are processor time, of one process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from bnsweep.experiment.plan import Plan, TrainingRun, make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.noise.evaluate import Evaluator
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.training.batches import Batches
from bnsweep.training.datasets import load_dataset
from bnsweep.training.images import Dataset
from bnsweep.training.models import build
from bnsweep.training.probes import Moment, Sizes
from bnsweep.training.probes import measure as measure_noise
from bnsweep.training.sites import BATCH_NORM, ChannelBias, find_sites, fold_plan, folded_values, place
from bnsweep.training.sites import replace as put
from bnsweep.training.streams import stream
from bnsweep.training.trainer import TrainingResult, train
from tests.bench.every_placement import ETAS, NETWORKS, TRIALS, Network, spec

MEASURED = Path(__file__).with_suffix(".parquet")
CPU = torch.device("cpu")
TIMED = 11  # one placement in so many is trained in full
EARLY = 1  # epochs, with gradient noise before and after each
GROUPS, PAIRS = 6, 3  # of images and of batches, per measurement
NOISES = ("gradient_noise", "gradient_noise_batch")
HUTCHINSON = 4  # random vectors
CURVED = 256  # training images that second derivatives are taken over
TUNED_AT = (0.1,)  # of the recipe's learning rate
SUPER = 6  # trainings that the supernet lasts
TOGETHER = 8  # placements that are written at once

Row = dict[str, Any]


class Bench:
    """Data, recipe and noise draws of one table and one training seed."""

    def __init__(self, network: Network, seed: int) -> None:
        self.network, self.seed = network, seed
        parsed = parse_spec(spec(network))
        self.plan: Plan = make_plan(parsed, LocalCatalog(Path()))
        self.run: TrainingRun = next(run for run in self.plan.runs if run.train_seed == seed)
        self.recipe: Any = self.run.training
        self.cell = parsed.noise[0]
        self.data: Dataset = load_dataset(parsed.data[0], root=Path())

    def untrained(self, mask: str) -> nn.Module:
        """As `work.train_run` begins."""
        whole = build(
            self.network.name,
            self.data.shape,
            seed=self.seed,
            init=self.recipe.init,
            bn_epsilon=self.recipe.bn_epsilon,
            bn_momentum=self.recipe.bn_momentum,
        )
        return place(whole, self.network.fixed + mask, example=self.data.example)

    def trained(
        self, network: nn.Module, *, epochs: int = 6, rate: float = 1.0, on_epoch: Callable[[Row], None] | None = None
    ) -> TrainingResult:
        """In place; `rate` is a factor of the recipe's."""
        changed = {"epochs": epochs, "learning_rate": rate * self.recipe.learning_rate}
        recipe = self.recipe.model_copy(update=changed)
        return train(network, self.data, recipe, seed=self.seed, on_epoch=on_epoch)

    def score(self, network: nn.Module) -> tuple[float, float]:
        """Accuracy and A_avr, with the noise draws of the table."""
        labels = torch.from_numpy(self.data.test.labels.copy())
        evaluator = Evaluator(network, self.data.inputs("test"), labels)
        seeds = [self.plan.noise_seed(self.run, trial) for trial in range(TRIALS)]
        noisy = [score.accuracy for eta in ETAS for score in evaluator.trials(self.cell, eta, seeds)]
        clean = evaluator.baseline().accuracy
        return clean, float(np.mean(noisy)) / clean

    @cached_property
    def everywhere(self) -> tuple[nn.Module, float]:
        """The network with BN at every site that is not fixed, trained; and the seconds that took."""
        return self._parent("1")

    @cached_property
    def nowhere(self) -> tuple[nn.Module, float]:
        """The network without."""
        return self._parent("0")

    def _parent(self, digit: str) -> tuple[nn.Module, float]:
        begin = process_time()
        network = self.untrained(digit * len(self.network.sites))
        self.trained(network)
        return network, process_time() - begin

    @cached_property
    def shared(self) -> tuple[Shared, float]:
        """The supernet, trained; and the seconds that took."""
        begin = process_time()
        network = Shared(self)
        self.trained(network, epochs=SUPER * self.recipe.epochs)
        return network, process_time() - begin

    @cached_property
    def site_costs(self) -> tuple[list[float], list[float]]:
        """What noise costs at each site and the layer before it, with BN everywhere and nowhere."""
        return self._by_site(self.everywhere[0]), self._by_site(self.nowhere[0])

    def _by_site(self, network: nn.Module) -> list[float]:
        whole = build(self.network.name, self.data.shape).eval()
        before = dict(fold_plan(whole, self.data.example))
        costs = noise_cost(self, network)
        paths = [(f"{site.path}.", f"{before[site.path]}.") for site in self.run.architecture.sites]
        return [sum(cost for name, cost in costs.items() if name.startswith(pair)) for pair in paths]

    def folded(self, mask: str) -> nn.Module:
        """The network with BN everywhere, without it where the placement has none: the same function."""
        network = deepcopy(self.everywhere[0])
        paths = [site.path for site in self.run.architecture.sites]
        dropped = {path for path, digit in zip(paths, self.network.fixed + mask, strict=True) if digit == "0"}
        with torch.no_grad():
            for site, producer in fold_plan(network, self.data.example):
                if site in dropped:
                    bn, layer = network.get_submodule(site), network.get_submodule(producer)
                    weight, bias = folded_values(layer, bn)
                    layer.weight.copy_(weight)  # type: ignore[operator, union-attr]
                    own = ChannelBias(len(bias))
                    own.bias.copy_(bias)
                    put(network, bn, own)
        return network.eval()


# --- ideas: each gives its columns for a placement ------------------------------------------------------


def full(bench: Bench, mask: str) -> Row:
    """The training itself and its scoring, of every `TIMED`th placement: the unit of cost."""
    if int(mask, 2) % TIMED:
        return {}
    begin = process_time()
    network = bench.untrained(mask)
    result = bench.trained(network)
    trained = process_time()
    if result.status != "diverged":
        bench.score(network)
    return {"full s": process_time() - begin, "scoring s": process_time() - trained}


def early(bench: Bench, mask: str) -> Row:
    """Gradient noise before the training and after its first epochs."""
    begin, network, row = process_time(), bench.untrained(mask), Row()
    recipe = bench.recipe
    batches = Batches(bench.data, recipe.batch_size, augment=recipe.augment, seed=bench.seed, device=CPU)
    size = Sizes(GROUPS, PAIRS)

    def probe(epoch: int) -> None:
        moment = Moment(epoch, bench.seed)
        found = measure_noise(network, batches.plain, batches.labels, moment, size=size, batch_size=recipe.batch_size)
        row.update({f"{each['probe']} after {epoch}": each["value"] for each in found if each["probe"] in NOISES})
        row[f"noise after {epoch} s"] = process_time() - begin

    def after(epoch: Row) -> None:
        probe(epoch["epoch"])
        if epoch["epoch"] == EARLY:
            raise Enough

    probe(0)
    with suppress(Enough):
        bench.trained(network, on_epoch=after)
    return row


class Enough(Exception):
    """A training has gone far enough."""


def folded(bench: Bench, mask: str) -> Row:
    """BN folded away from a trained network, as it is and after an epoch more, at two rates."""
    begin = process_time()
    row: Row = {"folded A_avr": bench.score(bench.folded(mask))[1], "folded s": process_time() - begin}
    for share in TUNED_AT:
        begin, network = process_time(), bench.folded(mask)
        result = bench.trained(network, epochs=1, rate=share)
        accuracy, normalized = bench.score(network) if result.status != "diverged" else (None, None)
        row |= {f"tuned {share:g} accuracy": accuracy, f"tuned {share:g} A_avr": normalized}
        row |= {f"tuned {share:g} loss": result.train_loss, f"tuned {share:g} s": process_time() - begin}
    return row


def traces(bench: Bench, mask: str) -> Row:
    """Second-order cost of noise on the folded network."""
    network = bench.folded(mask)
    begin = process_time()
    row: Row = {"trace": sum(noise_cost(bench, network).values()), "trace s": process_time() - begin}
    with_bn, without = bench.site_costs
    kept = bench.network.fixed + mask
    row["trace by site"] = sum((with_bn if digit == "1" else without)[n] for n, digit in enumerate(kept))
    return row


def supernet(bench: Bench, mask: str) -> Row:
    """The shared network with this placement."""
    begin = process_time()
    network = bench.shared[0].chosen(mask)
    accuracy, normalized = bench.score(network)
    return {"supernet accuracy": accuracy, "supernet A_avr": normalized, "supernet s": process_time() - begin}


IDEAS = (full, early, folded, traces, supernet)


def noise_cost(bench: Bench, network: nn.Module) -> dict[str, float]:
    """Half the trace of the loss' second derivatives by each tensor that noise hits, times the tensor's variance."""
    network = deepcopy(network).eval()
    for bn in [module for module in network.modules() if isinstance(module, BATCH_NORM)]:
        put(network, bn, Affine(bn))
    values = dict(network.named_parameters())
    images, labels = bench.data.inputs("train", count=CURVED), torch.from_numpy(bench.data.train.labels[:CURVED].copy())
    loss = nn.functional.cross_entropy(network(images), labels)
    tensors = list(values.values())
    slopes = torch.autograd.grad(loss, tensors, create_graph=True)
    numbers, sums = stream("hutchinson", bench.seed), np.zeros(len(tensors))
    for _ in range(HUTCHINSON):
        signs = [torch.from_numpy(numbers.choice(np.array([-1.0, 1.0], np.float32), t.shape)) for t in tensors]
        along = sum((slope * sign).sum() for slope, sign in zip(slopes, signs, strict=True))
        curved = torch.autograd.grad(along, tensors, retain_graph=True, materialize_grads=True)
        sums += [float((curve * sign).sum()) for curve, sign in zip(curved, signs, strict=True)]
    return {
        name: float(0.5 * total / HUTCHINSON) * float(tensor.detach().var(correction=0))
        for (name, tensor), total in zip(values.items(), sums, strict=True)
    }


class Affine(nn.Module):
    """What BN is in evaluation mode, with a derivative by its statistics too."""

    def __init__(self, bn: Any) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            setattr(self, name, nn.Parameter(getattr(bn, name).detach().clone()))
        self.eps = bn.eps

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        scale = (self.weight * torch.rsqrt(self.running_var + self.eps)).view(shape)
        return (x - self.running_mean.view(shape)) * scale + self.bias.view(shape)


class Either(nn.Module):
    """A site that has both: BN or a bias, as it is told."""

    def __init__(self, bn: Any) -> None:
        super().__init__()
        self.bn, self.bias, self.kept = bn, ChannelBias(bn.num_features), True

    def forward(self, x: Tensor) -> Tensor:
        chosen: Tensor = self.bn(x) if self.kept else self.bias(x)
        return chosen


class Shared(nn.Module):
    """All placements in one network: each batch trains a random one."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.network = bench.untrained("1" * len(bench.network.sites))
        found = find_sites(self.network, bench.data.example)
        for site in found:
            bn = self.network.get_submodule(site.path)
            put(self.network, bn, Either(bn))
        self.paths = [site.path for site in found]
        self.numbers = stream("supernet", bench.seed)
        self.images = bench.data.inputs("train")

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            for path in self.paths:
                self.network.get_submodule(path).kept = bool(self.numbers.integers(2))
        logits: Tensor = self.network(x)
        return logits

    @torch.no_grad()
    def chosen(self, mask: str) -> nn.Module:
        """The network of one placement, with BN's statistics of its own."""
        network = deepcopy(self.network)
        for path, digit in zip(self.paths, mask, strict=True):
            either: Any = network.get_submodule(path)
            put(network, either, either.bn if digit == "1" else either.bias)
        layers: list[Any] = [module for module in network.modules() if isinstance(module, BATCH_NORM)]
        before = [bn.momentum for bn in layers]
        for bn in layers:
            bn.reset_running_stats()
            bn.momentum = None  # the mean over all batches
        network.train()
        for batch in self.images.split(128):
            network(batch)
        for bn, momentum in zip(layers, before, strict=True):
            bn.momentum = momentum
        return network.eval()


# --- all of it ------------------------------------------------------------------------------------------


def measure(network: Network, seed: int, placements: int) -> None:
    """So many placements in random order, into the file; those that are there are not measured again."""
    order = stream("proxies", seed).permutation(network.masks)[:placements].tolist()
    done = {row["bn_mask"] for row in measured(network) if row["train_seed"] == seed}
    bench, rows = Bench(network, seed), []
    left = [mask for mask in order if mask not in done]
    for number, mask in enumerate(left, 1):
        row: Row = {
            "network": network.name,
            "train_seed": seed,
            "bn_mask": mask,
            "parent s": bench.everywhere[1],
            "other parent s": bench.nowhere[1],
            "supernet training s": bench.shared[1],
        }
        for idea in IDEAS:
            row |= idea(bench, mask)
        rows.append(row)
        if number % TOGETHER == 0 or number == len(left):
            keep(rows)
            rows = []


def measured(network: Network) -> list[Row]:
    """The rows of a network that the file has."""
    if not MEASURED.exists():
        return []
    return [row for row in pq.read_table(MEASURED).to_pylist() if row["network"] == network.name]


def keep(rows: list[Row]) -> None:
    """Add rows to the file."""
    rows = (pq.read_table(MEASURED).to_pylist() if MEASURED.exists() else []) + rows
    columns = list(dict.fromkeys(name for row in rows for name in row))
    found = pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows])
    single = [f.with_type(pa.float32()) if f.type == pa.float64() else f for f in found.schema]
    pq.write_table(found.cast(pa.schema(single)), MEASURED, compression="zstd")


def main() -> None:
    """Measure."""
    network, *rest = sys.argv[1:]
    torch.set_num_threads(1)
    measure(NETWORKS[network], *map(int, rest))


if __name__ == "__main__":
    main()
