"""A network's values as safetensors bytes, and back. Nothing here unpickles.

The same values give the same bytes, so that a digest of the file stands for the network. The strata of its test images
travel with it: margins computed elsewhere, or in another precision, could put an image into another stratum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from bnsweep.errors import ModelError, StoreDamagedError

__all__ = ["STRATA", "from_bytes", "load_values", "metadata_of", "pack", "to_bytes", "unpack"]

STRATA = "test images:stratum"  # no parameter's name: those are Python names joined by dots


def to_bytes(
    network: nn.Module, *, metadata: Mapping[str, str] | None = None, strata: NDArray[np.int64] | None = None
) -> bytes:
    """All parameters and buffers of a network, and the stratum of each test image, at most 256 different ones."""
    values = dict(network.state_dict())
    if strata is not None:
        values[STRATA] = torch.from_numpy(strata.astype(np.uint8))
    return pack(values, metadata or {})


def from_bytes(network: nn.Module, data: bytes) -> NDArray[np.int64] | None:
    """Copy what `to_bytes` wrote into a network of the same architecture and placement, in place; the strata, if any.

    Raises:
        StoreDamagedError: the bytes are no safetensors file.
        ModelError: names, shapes or dtypes are not the network's.
    """
    values = unpack(data)
    strata = values.pop(STRATA, None)
    load_values(network, values)
    return None if strata is None else strata.numpy().astype(np.int64)


@torch.no_grad()
def load_values(network: nn.Module, values: Mapping[str, Tensor], *, source: str = "the checkpoint") -> None:
    """Copy values into a network, keeping its devices and memory formats; strict, and nothing is copied on a fault."""
    wanted = network.state_dict()
    if faults := _differences(wanted, values):
        raise ModelError(
            f"{source} does not fit this {type(network).__name__}: {'; '.join(faults[:5])}"
            + (f" and {len(faults) - 5} more differences" if len(faults) > 5 else "")
            + ". Build the network that was trained, with its placement"
        )
    for name, target in wanted.items():
        target.copy_(values[name])


def pack(values: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file, with a header in one order."""
    # clone: tied parameters share memory, which the format does not have.
    data = save({name: value.detach().cpu().contiguous().clone() for name, value in values.items()})
    # The library writes metadata in the order of a hash map, so the header is written here.
    header_end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(metadata), **json.loads(data[8:header_end])}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[header_end:]


def unpack(data: bytes) -> dict[str, Tensor]:
    """The tensors of safetensors bytes.

    Raises:
        StoreDamagedError: the bytes are no safetensors file.
    """
    try:
        return dict(load(data))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise StoreDamagedError(f"the checkpoint ({len(data)} bytes) is damaged: {error}") from None


def metadata_of(data: bytes) -> dict[str, str]:
    """The metadata of safetensors bytes that `unpack` accepts."""
    header_end = 8 + int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8:header_end]).get("__metadata__", {})
    return {str(key): str(value) for key, value in metadata.items()}


def _differences(wanted: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> list[str]:
    faults = [f"{name} is missing" for name in wanted if name not in values]
    faults += [f"{name} is not part of the network" for name in values if name not in wanted]
    for name in wanted.keys() & values.keys():
        ours, theirs = wanted[name], values[name]
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            faults.append(f"{name} is {theirs.dtype} {tuple(theirs.shape)} instead of {ours.dtype} {tuple(ours.shape)}")
    return sorted(faults)
