"""Ray Tune as sweeps and searches use it: it places and repeats training runs, and keeps nothing that matters.

A trial is one training run and is called by its id, which its config has as `run_id`. Tune's own state is of no use to
anybody afterwards: the rows are.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ray import tune

from bnsweep.experiment.resources import Resource
from bnsweep.store.store import Store
from bnsweep.sweep.ray_nodes import resources_of
from bnsweep.sweep.retries import ATTEMPTS

__all__ = ["fit", "forget", "last_error"]

FOLDER = "tune"  # beside the rows, as every node must see it


def fit(
    function: Callable[..., None],
    parameters: Mapping[str, Any],
    *,
    store: Store,
    resource: Resource,
    selector: Mapping[str, str],
    callback: tune.Callback,
    param_space: Mapping[str, Any] | None = None,
    **how: Any,
) -> None:
    """Run trials until Tune has no more.

    Args:
        function: takes a config and `parameters`, which reach each node once.
        parameters: by name.
        store: Tune's state lies beside it.
        resource: what each trial takes.
        selector: of nodes by their labels.
        callback: hears of results and errors.
        param_space: of configs, where no search algorithm makes them.
        how: more of `tune.TuneConfig`.
    """
    trainable = tune.with_resources(
        tune.with_parameters(function, **parameters),
        tune.PlacementGroupFactory(
            [resources_of(resource)], bundle_label_selector=[dict(selector)] if selector else None
        ),
    )
    tune.Tuner(
        trainable,
        param_space=dict(param_space or {}),
        tune_config=tune.TuneConfig(
            trial_dirname_creator=lambda trial: trial.config["run_id"],
            trial_name_creator=lambda trial: trial.config["run_id"],
            # A fresh process per run costs seconds of imports; on a GPU it is what frees the memory.
            reuse_actors=resource.gpu == 0,
            **how,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{secrets.token_hex(4)}",
            storage_path=store.files.path(FOLDER),
            storage_filesystem=store.filesystem,
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=ATTEMPTS - 1),
            verbose=0,
        ),
    ).fit()


def last_error(trial: Any) -> BaseException | None:
    """Why a trial is given up; None after a failure that it is tried again for."""
    if trial.num_failures < ATTEMPTS:
        return None
    error = trial.get_pickled_error() or RuntimeError("the worker died")
    return getattr(error, "cause", None) or error


def forget(store: Store) -> None:
    """Delete what Tune wrote."""
    with suppress(OSError):
        store.filesystem.delete_dir(store.files.path(FOLDER))
