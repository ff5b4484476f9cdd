"""What a plan asks of networks and data sets, answered once each; torch is loaded for foreign networks only."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from bnsweep.errors import ModelError, UnknownNameError
from bnsweep.experiment.architecture import Architecture
from bnsweep.experiment.spec import Data
from bnsweep.paths import home_expanded
from bnsweep.training.datasets import DataShape, data_shape, fingerprint, image_counts
from bnsweep.training.layout import LAYOUTS, layout_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LocalCatalog"]

SOME_SHAPE = DataShape(channels=3, size=224, classes=10)  # large enough for every network of torchvision but one


class LocalCatalog:
    """Reads data sets under `root` and builds networks to look at them.

    `allow_import` permits `import:PACKAGE.MODULE:FACTORY`, which runs code: never for specs from outside.
    """

    def __init__(self, root: Path, *, allow_import: bool = False) -> None:
        self.root = root
        self.allow_import = allow_import
        self.shape = lru_cache(maxsize=None)(self._shape)
        self.fingerprint = lru_cache(maxsize=None)(self._fingerprint)
        self.image_counts = lru_cache(maxsize=None)(image_counts)
        self.describe = lru_cache(maxsize=None)(self._describe)
        self.digest = lru_cache(maxsize=None)(self._digest)
        self.built = lru_cache(maxsize=1)(self._built)

    def architecture(self, model: str, data: Data) -> Architecture:
        self._check_import(model)
        return self.describe(model, self.shape(data))

    def sketch(self, model: str) -> Architecture | None:
        self._check_import(model)
        if model.startswith("import:"):
            from bnsweep.training.external import find_factory

            find_factory(model)
        try:
            return self.describe(model, SOME_SHAPE)
        except UnknownNameError:
            raise
        except ModelError:  # it may take images of another size
            return None

    def weights(self, model: str, data: Data, path: str) -> str:
        """The SHA-256 of the values in a file, read again when it has changed. Raises ModelError."""
        self._check_import(model)
        stamp: tuple[int, ...] = ()
        with suppress(OSError, ValueError):  # `_digest` says what is wrong
            there = home_expanded(path).stat()
            stamp = there.st_ino, there.st_mtime_ns, there.st_ctime_ns, there.st_size
        return self.digest(model, self.shape(data), path, stamp)

    def _digest(self, model: str, shape: DataShape, path: str, _stamp: tuple[int, ...]) -> str:
        from bnsweep.training.weights import portable, put_in

        put_in(self.built(model, shape), data := portable(path), source=path)
        return hashlib.sha256(data).hexdigest()

    def _built(self, model: str, shape: DataShape) -> nn.Module:
        """To try values on."""
        from bnsweep.training.models import build

        return build(model, shape, init=None, allow_import=self.allow_import)

    def _check_import(self, model: str) -> None:
        if model.startswith("import:") and not self.allow_import:
            raise ModelError(f"{model!r} runs code of your own; only the command line may do that, not a service")

    def _describe(self, model: str, shape: DataShape) -> Architecture:
        if model in LAYOUTS:
            return layout_of(model, shape)
        from bnsweep.training.models import describe

        return describe(model, shape, allow_import=self.allow_import)

    def _shape(self, data: Data) -> DataShape:
        return data_shape(data, root=self.root)

    def _fingerprint(self, data: Data) -> str:
        return fingerprint(data, root=self.root)
