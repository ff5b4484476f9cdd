"""The sweep file: every field, its meaning, unit and range.

A spec is frozen data. Unknown keys are refused, and nothing is evaluated: a model is a name, a data
set is a name or a path. `bnsweep.experiment.reading` turns YAML text into a `Spec`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from bnsweep.errors import InputError
from bnsweep.experiment.entries import (
    DATASET,
    NAME,
    Count,
    Eta,
    Frozen,
    Number,
    Precision,
    Seed,
    Trials,
    Whole,
    form,
    listed,
)
from bnsweep.experiment.noise_cell import MOST_CELLS, NoiseCell, expand_noise
from bnsweep.experiment.placement import Placement
from bnsweep.experiment.recipe import Augment, Training, resolve_augment
from bnsweep.experiment.resources import Resources

__all__ = ["AdaptiveTrials", "Data", "Evaluation", "FileEntry", "Model", "Probes", "Spec"]

PERCENT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?%")
ELSE = " (data sets: a `name` each, networks with `weights`: a `label` each)"
LARGEST_SCALE = 1e6  # of pixels in [0, 1]: more is a slip, and float32 ends somewhere

Offset = Annotated[Number, Field(ge=-LARGEST_SCALE, le=LARGEST_SCALE)]
Deviation = Annotated[Number, Field(ge=1 / LARGEST_SCALE, le=LARGEST_SCALE)]


def _unset(value: Any) -> bool:
    """Left out of a spec as it is kept: a key that nobody uses changes no sweep's digest."""
    return value is None


class Data(Frozen):
    """One data set: uint8 images with a fixed train/test split."""

    source: str = Field(
        description="digits, cifar10, cifar100, parquet:DIRECTORY (train.parquet and test.parquet in Hugging "
        "Face image layout) or folder:DIRECTORY (train/CLASS/*.png and test/CLASS/*.png)",
        min_length=1,
        max_length=4096,
    )
    name: str | None = Field(None, description="the `dataset` column; default: the source's last word", pattern=DATASET)
    size: Whole | None = Field(None, ge=4, le=1024, description="images are resized to size x size pixels")
    train_images: Count | None = Field(None, description="use only the first N training images")
    test_images: Count | None = Field(None, description="use only the first N test images")
    label: str | None = Field(None, description="label column of parquet: data; default: the only integer column")
    mean: tuple[Offset, ...] | None = Field(
        None,
        max_length=1024,
        exclude_if=_unset,
        description="per channel, subtracted from pixels scaled to [0, 1]; default: that of the training images",
    )
    std: tuple[Deviation, ...] | None = Field(
        None,
        max_length=1024,
        exclude_if=_unset,
        description="per channel, divided by after that; default: the standard deviation of the training images",
    )

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _channels(cls, value: Any) -> Any:
        return value if value is None else listed(value)

    @model_validator(mode="after")
    def _normalised(self) -> Self:
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError(
                f"`mean` and `std` go together, a number per channel each, but got mean={self.mean} and std={self.std}"
            )
        return self

    @property
    def dataset(self) -> str:
        """The label that rows carry: a `name`, whatever the source is called."""
        word = re.sub(r"[^\w.+-]", "-", self.source.rstrip("/").split(":")[-1].split("/")[-1])[:100]
        return self.name or (word if word.strip(".") else "images")


class Model(Frozen):
    """One network, with what it does differently from the rest of the sweep."""

    name: str = Field(description="a name from `bnsweep models`, torchvision:NAME or import:PACKAGE.MODULE:FACTORY")
    placements: tuple[Placement, ...] | None = Field(None, min_length=1, description="instead of the sweep's")
    training: Training | None = Field(None, description="where it differs from the sweep's")
    weights: tuple[Annotated[str, Field(min_length=1, max_length=4096)], ...] | None = Field(
        None,
        min_length=1,
        max_length=100_000,
        exclude_if=_unset,
        description="files of networks that are trained already, safetensors or a state_dict by torch.save: one per "
        "training seed, or one alone, which is one network; scored as they are, unless this network's own `training` "
        "has `epochs` to fine-tune them (nothing else of the sweep's `training` is about them)",
    )
    label: str | None = Field(
        None,
        pattern=NAME,
        exclude_if=_unset,
        description="with `weights`: what these networks are called, where there are others of the same name, in this "
        "sweep or another of the store; default: the sweep's `name`",
    )

    @field_validator("weights", mode="before")
    @classmethod
    def _files(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _as_built(self) -> Self:
        """A network that is trained already has one placement."""
        if self.label is not None and not self.weights:
            raise ValueError(f"`label` goes with `weights`, but {self.name} has none")
        if self.weights and self.placements is None:
            object.__setattr__(self, "placements", (Placement.parse("all"),))
        return self

    @property
    def foreign(self) -> bool:
        """Whether its code is not bnsweep's own."""
        return self.name.startswith(("import:", "torchvision:"))

    def recipe(self, training: Training) -> Training | None:
        """Its own recipe where the sweep has `training`; None: the sweep's."""
        own = self.training or Training()
        said = {name: getattr(own, name) for name in own.model_fields_set}
        if not self.weights:
            return training.model_copy(update=said) if self.training else None
        # BN as whoever trained it had it; bnsweep's own networks have no epsilon but the recipe's.
        as_built = {"bn_epsilon": None, "bn_momentum": None} if self.foreign else {}
        if said.get("epochs"):
            return training.model_copy(update=as_built | said)
        # Scored as it is: how others are trained has no part in what it is.
        epsilon = {"bn_epsilon": training.bn_epsilon, **as_built, **said}["bn_epsilon"]
        return Training(epochs=0, augment=Augment(), bn_epsilon=epsilon, bn_momentum=None)


class AdaptiveTrials(Frozen):
    """Trials continue in rounds until the interval on mean accuracy is narrow enough."""

    half_width: Number = Field(
        ge=1e-6, lt=0.5, description="of the interval on mean accuracy, as a fraction (0.005 = 0.5 point)"
    )
    confidence: Number = Field(0.95, ge=0.5, le=0.999999, description="of the interval, valid at the stopping time")
    min: Annotated[Whole, Field(ge=2, le=1_000_000)] = Field(8, description="fewest trials per point")
    max: Annotated[Whole, Field(ge=2, le=1_000_000)] = Field(1000, description="most trials per point")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"`min <= max` must hold, but got min={self.min}, max={self.max}")
        return self

    @property
    def aim(self) -> int:
        """Trials that `images: auto` reckons with: a larger `max` changes no decision, so that raising it goes on."""
        return min(self.max, 1000)


class Evaluation(Frozen):
    """How a perturbed network is scored."""

    precision: Precision = Field("fp32", description="of the forward pass; noise is drawn in fp32")
    batch_size: Annotated[Whole, Field(ge=1, le=100_000)] = Field(250, description="images per forward pass")


class Probes(Frozen):
    """What is measured while networks train. Weights and ids are the same with and without."""

    at: tuple[Annotated[Number, Field(ge=0, le=1)], ...] = Field(
        (0.1, 0.5, 1.0),
        min_length=1,
        max_length=1000,
        description="when, as fractions of all epochs; 0: before the first",
    )
    cost_frac: Number = Field(
        0.05, gt=0, le=10, description="most of the training's time that they may cost; three estimates at least"
    )


class FileEntry(NamedTuple):
    """An entry of a spec that names a file or a folder."""

    where: str  # data.0.source
    kind: str  # parquet, folder; empty: none is written
    path: str

    def at(self, path: str) -> str:
        """The entry with another path."""
        return f"{self.kind}:{path}" if self.kind else path

    def __str__(self) -> str:
        return self.at(self.path)


class Spec(Frozen):
    """One sweep: data x models x placements x training seeds x noise cells x eta."""

    is_search: ClassVar[bool] = False  # a search file is one with more to it

    version: Literal[1] = Field(1, description="of this file's format")
    name: str = Field(description="the `sweep` column", pattern=NAME)
    description: str = Field("", max_length=10_000, description="shown in the report")
    data: tuple[Data, ...] = Field(
        min_length=1, max_length=100, description="one or several data sets; a word is its `source`"
    )
    models: tuple[Model, ...] = Field(
        min_length=1, max_length=10_000, description="one or several networks; a word is its `name`"
    )
    placements: tuple[Placement, ...] = Field(
        (Placement.parse("all"), Placement.parse("none")), min_length=1, description="which BN sites stay"
    )
    train_seeds: tuple[Seed, ...] = Field(
        (0,), min_length=1, max_length=100_000, description="of networks trained alike: a list, or how many"
    )
    training: Training = Training()
    noise: tuple[NoiseCell, ...] = Field(
        (NoiseCell(),),
        min_length=1,
        max_length=MOST_CELLS,
        description="one or several ways to perturb; lists in one stand for every combination of their values",
    )
    eta: tuple[Eta, ...] = Field(
        tuple(map(Decimal, ("0", "0.01", "0.1", "0.2", "0.3", "0.4"))),
        min_length=1,
        max_length=1000,
        description="noise level as a fraction of the sigma reference; 0 (the baseline) is always measured",
    )
    trials: Annotated[
        Annotated[AdaptiveTrials, Tag("mapping")] | Annotated[Trials, Tag("word")] | Annotated[Trials, Tag("number")],
        Discriminator(form),
    ] = Field(10, description="per point: a number, or until the interval is narrow")
    images: Annotated[
        Annotated[Literal["all", "auto"], Tag("word")]
        | Annotated[Count, Tag("number")]
        | Annotated[Count, Tag("mapping")],
        Discriminator(form),
    ] = Field("all", description="test images per trial: all, a random N, or auto (stratified by the clean margin)")
    noise_seed: Seed = Field(0, description="root of every noise stream")
    evaluation: Evaluation = Evaluation()
    resources: Resources = Resources()
    probes: Probes | None = Field(
        None,
        description="gradient noise and smoothness along training (eq. 6 to 9); networks that stand are not retrained",
    )

    @field_validator("data", mode="before")
    @classmethod
    def _data(cls, value: Any) -> Any:
        return [{"source": item} if isinstance(item, str) else item for item in listed(value)]

    @field_validator("models", mode="before")
    @classmethod
    def _models(cls, value: Any) -> Any:
        return [{"name": item} if isinstance(item, str) else item for item in listed(value)]

    @field_validator("placements", mode="before")
    @classmethod
    def _placements(cls, value: Any) -> Any:
        return listed(value)

    @field_validator("train_seeds", mode="before")
    @classmethod
    def _train_seeds(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 1 <= value <= 100_000:
                raise ValueError(f"a number of training seeds must be from 1 to 100000, but got {value}")
            return list(range(value))
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"a list of seeds, or how many: 3 stands for [0, 1, 2], but got {value!r:.80}")
        return value

    @field_validator("noise", mode="before")
    @classmethod
    def _noise(cls, value: Any) -> Any:
        return expand_noise(value)

    @field_validator("eta", mode="before")
    @classmethod
    def _eta(cls, value: Any) -> Any:
        for item in listed(value):
            if isinstance(item, str) and (match := PERCENT.fullmatch(item)):
                fraction = f"{(Decimal(match[1]) / 100).normalize():f}"
                raise ValueError(f"eta is a fraction: write {fraction} for {match[1]} %, but got {item!r}")
        # str() of a YAML float is its shortest decimal form, so 0.1 stays exactly 0.1.
        return [str(item) if isinstance(item, (int, float)) else item for item in listed(value)]

    @field_validator("eta")
    @classmethod
    def _eta_sorted(cls, value: tuple[Decimal, ...]) -> tuple[Decimal, ...]:
        # The baseline belongs to every curve: normalized accuracy divides by it.
        return tuple(sorted({Decimal(0), *value}))

    @field_validator("data", "models", "train_seeds", "noise")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        def of(value: Any) -> Any:
            match value:
                case Data():
                    return value.dataset
                case Model():  # what is not said of a recipe is filled in later
                    said = None if value.training is None else frozenset(value.training.model_fields_set)
                    return value.name, value.training, said, value.weights and (value.label or "")
            return value

        seen: set[Any] = set()  # a hundred thousand seeds may be listed
        for value in map(of, values):
            if value in seen:
                shown = value[0] if isinstance(value, tuple) else value
                raise ValueError(f"`{info.field_name}` names {shown} twice; give each once{ELSE}")
            seen.add(value)
        return values

    @field_validator("images")
    @classmethod
    def _reachable(cls, value: Any, info: ValidationInfo) -> Any:
        if value == "auto" and isinstance(info.data.get("trials"), int):
            raise ValueError(
                "`images: auto` needs a half-width to reach, but `trials` is a number; "
                "write trials: {half_width: 0.005} or images: all"
            )
        return value

    @model_validator(mode="after")
    def _recipes(self) -> Self:
        """A network's own recipe is the sweep's, but for what it says."""
        models = (model.model_copy(update={"training": model.recipe(self.training)}) for model in self.models)
        object.__setattr__(self, "models", tuple(models))  # frozen for everybody else
        self._check_models()
        return self

    def _check_models(self) -> None:
        """Recipes that are one once the sweep's has been filled in."""
        recipes = [(model.name, model.training, self.label_of(model)) for model in self.models]
        if len(set(recipes)) < len(recipes):
            twice = next(recipe[0] for number, recipe in enumerate(recipes) if recipe in recipes[:number])
            raise ValueError(f"`models` names {twice} twice; give each once, or with another `training`, or a `label`")

    def label_of(self, model: Model) -> str | None:
        """What networks that somebody else has trained are called; None: they are trained here."""
        return (model.label or self.name) if model.weights else None

    @property
    def files(self) -> list[FileEntry]:
        """The entries that name files: images, weights."""
        images = [(f"data.{index}.source", data.source) for index, data in enumerate(self.data)]
        found = [FileEntry(where, *source.partition(":")[::2]) for where, source in images if ":" in source]
        for index, model in enumerate(self.models):
            found += [
                FileEntry(f"models.{index}.weights.{at}", "", path) for at, path in enumerate(model.weights or ())
            ]
        return found

    def with_source(self, source: str) -> Self:
        """The same sweep with images from elsewhere: size, prefixes and the data set's label stay.

        Raises:
            InputError: the sweep has several data sets.
        """
        if len(self.data) != 1:
            raise InputError(f"one source can stand in for one data set, but the sweep has {len(self.data)}")
        data = self.data[0]
        models = tuple(
            model.model_copy(update={"training": model.training and resolve_augment(model.training, data.source)})
            for model in self.models
        )
        return self.model_copy(
            update={
                "data": (data.model_copy(update={"source": source, "name": data.dataset}),),
                "models": models,
                "training": resolve_augment(self.training, data.source),  # `auto` depends on the source
            }
        )
