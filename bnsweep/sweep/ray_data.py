"""Data sets in Ray's object store: loaded and put there once, by the driver; one copy per node, shared by its workers.

Workers read that copy where it lies (`training/inputs.py`), so it is put as they use it: the channels innermost in
memory, as `load_dataset` leaves them, and with what else is a function of all images.
"""

from __future__ import annotations

import ray

from bnsweep.sweep.engine import Datasets

__all__ = ["SharedData"]


class SharedData:
    """References to data sets, by fingerprint."""

    def __init__(self, loaders: Datasets) -> None:
        self.loaders = loaders
        self.references: dict[str, ray.ObjectRef] = {}

    def reference(self, fingerprint: str) -> ray.ObjectRef:
        """Loads the data set when it is asked for the first time."""
        if fingerprint not in self.references:
            dataset = self.loaders[fingerprint]()
            _ = dataset.normalisation  # travels along: else each worker would go through all images
            self.references[fingerprint] = ray.put(dataset)
        return self.references[fingerprint]
