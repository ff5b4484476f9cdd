"""The `training` section of a spec: how a network is trained. Everything here is part of `run_id`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from bnsweep.experiment.entries import Frozen, Number, Precision, Whole, form

__all__ = ["Augment", "Constant", "Cosine", "Step", "Training", "resolve_augment"]


class Augment(Frozen):
    """Random changes to training images, drawn per image and epoch, on the device."""

    flip: bool = Field(False, description="mirror left-right with probability 1/2")
    shift: Number = Field(0.0, ge=0, le=0.5, description="largest shift, as a fraction of the image's side")


class Constant(Frozen):
    """The learning rate stays as it is."""

    kind: Literal["constant"] = "constant"


class Step(Frozen):
    """The learning rate is multiplied by `factors[i]` from `milestones[i]` on (fractions of all epochs)."""

    kind: Literal["step"] = "step"
    milestones: tuple[Annotated[Number, Field(gt=0, lt=1)], ...] = Field((0.5, 0.75), description="fractions of epochs")
    factors: tuple[Annotated[Number, Field(gt=0, le=1)], ...] = Field((0.1, 0.01), description="of the initial rate")

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.milestones) != len(self.factors):
            raise ValueError(
                "`milestones` and `factors` must be equally long, "
                f"but got {len(self.milestones)} and {len(self.factors)}"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"`milestones` must increase, but got {list(self.milestones)}")
        return self


class Cosine(Frozen):
    """The learning rate falls along half a cosine to `final` times its initial value."""

    kind: Literal["cosine"] = "cosine"
    warmup: Number = Field(0.0, ge=0, lt=1, description="fraction of all steps with a linear rise")
    final: Number = Field(0.0, ge=0, le=1, description="last rate as a fraction of the initial one")


def _kind(value: Any) -> Any:
    """A word stands for the schedule of this kind."""
    return {"kind": value} if isinstance(value, str) else value


Schedule = Annotated[Constant | Step | Cosine, Field(discriminator="kind"), BeforeValidator(_kind)]


class Training(Frozen):
    """How a network is trained. Everything here is part of `run_id`."""

    epochs: Annotated[Whole, Field(ge=0, le=100_000)] = Field(30, description="passes over the training images")
    batch_size: Annotated[Whole, Field(ge=1, le=1_000_000)] = Field(128, description="images per step")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="adam (0.9, 0.999, 1e-7) or sgd (Nesterov 0.9)")
    learning_rate: Number = Field(1e-3, gt=0, le=100, description="initial rate")
    schedule: Schedule = Field(
        Cosine(), description="constant, step or cosine: the word, or a mapping with it as `kind`"
    )
    weight_decay: Number = Field(0.0, ge=0, le=1, description="L2 coefficient on kernels, added to the gradient")
    augment: Annotated[
        Annotated[Augment, Tag("mapping")]
        | Annotated[Literal["auto"], Tag("word")]
        | Annotated[Literal["auto"], Tag("number")],
        Discriminator(form),
    ] = Field("auto", description="auto: CIFAR flip + shift 0.1; digits shift 0.1; other data none")
    init: Literal["glorot_uniform", "he_normal"] = Field("glorot_uniform", description="of every kernel")
    precision: Precision = Field("fp32", description="of the forward and backward pass; weights stay fp32")
    bn_epsilon: Number | None = Field(
        1e-3, gt=0, le=1, description="added to BN's variance (Keras' default); null: as the network was built"
    )
    bn_momentum: Number | None = Field(
        0.1, gt=0, le=1, description="weight of the newest batch in BN's running statistics; null: as it was built"
    )
    patience: Annotated[Whole, Field(ge=1)] | None = Field(
        None, description="`converged` after so many epochs without a lower training loss; default: use all epochs"
    )
    min_delta: Number = Field(1e-3, ge=0, description="a smaller fall of the training loss does not count")
    chance_epochs: Annotated[Whole, Field(ge=1)] | None = Field(
        10, description="`diverged` if training accuracy is still no better than chance after so many epochs"
    )


def resolve_augment(training: Training, source: str) -> Training:
    """The recipe with `augment: auto` spelled out for a data set."""
    if training.augment != "auto":
        return training
    augment = {
        "digits": Augment(shift=0.1),
        "cifar10": Augment(flip=True, shift=0.1),
        "cifar100": Augment(flip=True, shift=0.1),
    }.get(source, Augment())
    return training.model_copy(update={"augment": augment})
