"""What a training run leaves behind after an epoch, so that another process can go on to the same weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from bnsweep.errors import ModelError, StoreDamagedError
from bnsweep.training.checkpoint import load_values, metadata_of, pack, unpack

if TYPE_CHECKING:
    from bnsweep.experiment.recipe import Training

__all__ = ["RunState", "Slot", "identity", "restore", "snapshot"]


class Slot(Protocol):
    """Where one run's resumable state lies. A write replaces the one before it, whole or not at all."""

    def read(self) -> bytes | None:
        """What was written last; None: nothing."""
        ...

    def write(self, data: bytes) -> None:
        """Replace it."""
        ...


@dataclass(slots=True)
class RunState:
    """Where a run stands between two epochs, beside its tensors."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # one per epoch, as in the epochs table
    probes: list[dict[str, Any]] = field(default_factory=list)  # as in the probes table
    best_loss: float = inf
    stale_epochs: int = 0  # since the loss last fell by more than min_delta
    duration_s: float = 0.0


def identity(network: nn.Module, recipe: Training, *, seed: int, images: int) -> str:
    """A digest of what a state belongs to: a state of another run is never continued."""
    names = [(name, tuple(values.shape)) for name, values in network.state_dict().items()]
    return hashlib.sha256(repr((names, recipe, seed, images)).encode()).hexdigest()


def snapshot(network: nn.Module, optimizer: torch.optim.Optimizer, progress: RunState, *, belongs_to: str) -> bytes:
    """Network, optimizer and progress as safetensors bytes."""
    values: dict[str, Tensor] = {f"network/{name}": value for name, value in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                values[f"optimizer/{name}/{key}"] = value
    return pack(values, {"belongs_to": belongs_to, "progress": json.dumps(asdict(progress))})


def restore(data: bytes, network: nn.Module, optimizer: torch.optim.Optimizer, *, belongs_to: str) -> RunState | None:
    """Put a snapshot's values back, in place. None: it is damaged or of another run, so start from the beginning."""
    try:
        values = unpack(data)
        metadata = metadata_of(data)
        if metadata.get("belongs_to") != belongs_to:
            return None
        progress = RunState(**json.loads(metadata["progress"]))
        load_values(network, _under("network/", values))
    except (StoreDamagedError, ModelError, KeyError, TypeError, ValueError):
        return None
    for name, parameter in network.named_parameters():
        for key, value in _under(f"optimizer/{name}/", values).items():
            # The layout of the parameter, as the optimizer itself allocates it: kernels see the same strides again.
            # Its device too, for the count of steps as for the rest: a fused optimizer takes nothing from elsewhere.
            like = parameter if value.shape == parameter.shape else value
            own = torch.empty_like(like, device=parameter.device, dtype=value.dtype, requires_grad=False)
            optimizer.state[parameter][key] = own.copy_(value)
    return progress


def _under(prefix: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
